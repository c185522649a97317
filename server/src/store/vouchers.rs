//! Prepaid vouchers: the way that money enters the ledger.
//!
//! A code carries 125 bits and is shown once, to whoever makes it; the database keeps its hash. The codes of a batch are derived from 256 random
//! bits, which are stored, and the request's idempotency key, of which only a hash is: so a repeated request shows the same codes again although
//! nobody can read them out of the database. They are as secret as the key is; a client uses a random UUID.

use protocol::rest::{EventType, NewVouchers, Vouchers};
use protocol::{ErrorCode, UserId, VoucherBatchId};
use rules::ledger::Transfer;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{amount, bigint, byte_array, integer, stored_time};
use super::idempotency::{Answer, Begun, Idempotency, commit_once, commit_once_showing};
use super::outbox::{self, Told};
use super::{Store, StoreError, Tx, ledger};

/// Most vouchers of one batch, as in the API.
pub const BATCH_MAX: u32 = 1_000;
/// Crockford's base 32: no I, L, O or U, which are mistaken for 1, 1, 0 and V.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 25 characters of 5 bits, shown in groups of 5.
const CODE_CHARACTERS: usize = 25;
const GROUP: usize = 5;

/// A voucher's code as the server compares it: 25 characters of [`ALPHABET`].
#[derive(Clone, PartialEq, Eq)]
struct Code(String);

impl Code {
    /// The 5 bits of a character are the low bits of one byte: equally likely, because 32 divides 256.
    fn from_random(bytes: &[u8; CODE_CHARACTERS]) -> Self {
        Self(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
    }

    /// Reads what a person typed: in any case, with any spaces and hyphens, I and L for 1, O for 0.
    fn parse(text: &str) -> Option<Self> {
        let mut code = String::with_capacity(CODE_CHARACTERS);
        for character in text.chars().filter(|character| !character.is_whitespace() && *character != '-') {
            let character = match character.to_ascii_uppercase() {
                'I' | 'L' => '1',
                'O' => '0',
                other => other,
            };
            if code.len() == CODE_CHARACTERS || !u8::try_from(character).is_ok_and(|byte| ALPHABET.contains(&byte)) {
                return None;
            }
            code.push(character);
        }
        (code.len() == CODE_CHARACTERS).then_some(Self(code))
    }

    fn shown(&self) -> String {
        let groups: Vec<&str> = (0..CODE_CHARACTERS).step_by(GROUP).map(|start| &self.0[start..start + GROUP]).collect();
        groups.join("-")
    }

    fn hash(&self) -> [u8; 32] {
        blake3::derive_key("spillway voucher code v1", self.0.as_bytes())
    }
}

/// The codes of a batch.
fn codes(salt: &[u8; 32], request: &Idempotency, count: u32) -> Vec<Code> {
    let mut hasher = blake3::Hasher::new_derive_key("spillway voucher codes v1");
    hasher.update(salt).update(&request.user_id.to_bytes()).update(request.key.as_bytes());
    let mut stream = hasher.finalize_xof();
    (0..count)
        .map(|_| {
            let mut bytes = [0; CODE_CHARACTERS];
            stream.fill(&mut bytes);
            Code::from_random(&bytes)
        })
        .collect()
}

impl Store {
    /// Makes vouchers on behalf of the operator who sends the request; answered with 201 and [`Vouchers`]. No money moves before they are redeemed.
    ///
    /// # Errors
    /// `invalid_request` for a count, value or expiry that makes no sense, or the errors of a repeated key.
    pub async fn create_vouchers(&self, new: &NewVouchers, request: &Idempotency, now: OffsetDateTime) -> Result<Answer, StoreError> {
        let value = self.amount_of(new.value)?;
        if !(1..=BATCH_MAX).contains(&new.count) {
            return Err(StoreError::refused_because(ErrorCode::InvalidRequest, format!("a batch has 1 to {BATCH_MAX} vouchers")));
        }
        if value.0 == 0 {
            return Err(StoreError::refused_because(ErrorCode::InvalidRequest, "a voucher must be worth something"));
        }
        let expires_at = new.expires_at.map(stored_time);
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return self.show_codes_again(answer, request).await,
        };
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(StoreError::refused_because(ErrorCode::InvalidRequest, "the vouchers would have expired already"));
        }
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|error| StoreError::Invariant(format!("the system gives no random bytes: {error}")))?;
        let batch_id = VoucherBatchId(Uuid::now_v7());
        let codes = codes(&salt, request, new.count);
        sqlx::query("INSERT INTO voucher_batches (id, created_by, vouchers, salt, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(batch_id.0)
            .bind(request.user_id.0)
            .bind(integer(new.count)?)
            .bind(salt.as_slice())
            .bind(now)
            .execute(&mut *tx)
            .await?;
        let hashes: Vec<Vec<u8>> = codes.iter().map(|code| code.hash().to_vec()).collect();
        sqlx::query("INSERT INTO vouchers (code_hash, batch_id, value, expires_at) SELECT code_hash, $2, $3, $4 FROM unnest($1::bytea[]) AS made (code_hash)")
            .bind(&hashes)
            .bind(batch_id.0)
            .bind(bigint(value.0)?)
            .bind(expires_at)
            .execute(&mut *tx)
            .await?;
        let mut vouchers = Vouchers { batch_id, codes: Vec::new(), value: new.value };
        let stored = body(&vouchers)?;
        vouchers.codes = codes.iter().map(Code::shown).collect();
        let shown = Answer { status: 201, body: body(&vouchers)?, replayed: false };
        commit_once_showing(tx, request, shown, stored, now).await
    }

    /// The stored answer has no codes; they follow from the batch's salt and the key that the request carries again.
    async fn show_codes_again(&self, answer: Answer, request: &Idempotency) -> Result<Answer, StoreError> {
        let mut vouchers: Vouchers = answer.read()?;
        let (count, salt): (i32, Vec<u8>) = sqlx::query_as("SELECT vouchers, salt FROM voucher_batches WHERE id = $1")
            .bind(vouchers.batch_id.0)
            .fetch_one(&self.pool)
            .await?;
        vouchers.codes = codes(&byte_array(&salt)?, request, super::conversions::small(count)?).iter().map(Code::shown).collect();
        Ok(Answer { body: body(&vouchers)?, ..answer })
    }

    /// Adds a voucher's value to the wallet of whoever sends the request; answered with 201 and the [`protocol::rest::WalletEntry`].
    ///
    /// # Errors
    /// `not_found`, `voucher_used`, `voucher_expired`, or the errors of a repeated key.
    pub async fn redeem_voucher(&self, code: &str, request: &Idempotency, now: OffsetDateTime) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let code = Code::parse(code).ok_or(StoreError::NotFound("voucher"))?;
        let entry = self.redeem(&mut tx, &code, request.user_id, now).await?;
        let data = serde_json::json!({ "transfer_id": entry.transfer_id, "amount": entry.amount });
        outbox::tell(&mut tx, &[Told::new(request.user_id, EventType::VoucherRedeemed, entry.transfer_id, data)], now).await?;
        commit_once(tx, request, 201, &entry, now).await
    }

    async fn redeem(
        &self,
        tx: &mut Tx,
        code: &Code,
        user_id: UserId,
        now: OffsetDateTime,
    ) -> Result<protocol::rest::WalletEntry, StoreError> {
        let voucher: Option<(i64, Option<OffsetDateTime>, Option<OffsetDateTime>)> =
            sqlx::query_as("SELECT value, expires_at, redeemed_at FROM vouchers WHERE code_hash = $1 FOR UPDATE")
                .bind(code.hash().as_slice())
                .fetch_optional(&mut **tx)
                .await?;
        let (value, expires_at, redeemed_at) = voucher.ok_or(StoreError::NotFound("voucher"))?;
        if redeemed_at.is_some() {
            return Err(StoreError::refused(ErrorCode::VoucherUsed));
        }
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(StoreError::refused(ErrorCode::VoucherExpired));
        }
        let transfer = Transfer::voucher_redemption(user_id, amount(value)?).map_err(|error| StoreError::Invariant(error.to_string()))?;
        let transfer_id = ledger::post(tx, &transfer, None, None, now).await?.ok_or(StoreError::Invariant("a voucher of 0".to_owned()))?;
        sqlx::query("UPDATE vouchers SET redeemed_by = $2, redeemed_at = $3, transfer_id = $4 WHERE code_hash = $1")
            .bind(code.hash().as_slice())
            .bind(user_id.0)
            .bind(now)
            .bind(transfer_id.0)
            .execute(&mut **tx)
            .await?;
        self.entry_of(tx, user_id, transfer_id).await
    }
}

fn body(vouchers: &Vouchers) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(vouchers).map_err(|error| StoreError::Invariant(format!("an answer cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_a_person_writes_it() {
        let code = Code::parse("01ABC-DEFGH-JKMNP-QRSTV-WXYZ2").unwrap();
        assert_eq!(code.shown(), "01ABC-DEFGH-JKMNP-QRSTV-WXYZ2");
        assert!(Code::parse(" o1abc defgh jkmnp qrstvwxyz2 ") == Some(code.clone()));
        assert!(Code::parse("OLABC-DEFGH-JKMNP-QRSTV-WXYZ2") == Some(code));
        for bad in [
            "",
            "01ABC-DEFGH-JKMNP-QRSTV-WXYZ",
            "01ABC-DEFGH-JKMNP-QRSTV-WXYZ22",
            "01ABC-DEFGH-JKMNP-QRSTV-WXYZU",
            "01ABC-DEFGH-JKMNP-QRSTV-WXYZé",
        ] {
            assert!(Code::parse(bad).is_none(), "{bad:?} was read as a code");
        }
    }

    #[test]
    fn codes_follow_from_the_salt_and_the_key_and_from_nothing_less() {
        let request = |key: &str| Idempotency { user_id: UserId::from_bytes([1; 16]), key: key.to_owned(), request_hash: [0; 32] };
        let shown = |salt: u8, key: &str| codes(&[salt; 32], &request(key), 100).iter().map(Code::shown).collect::<Vec<_>>();
        assert_eq!(shown(1, "a"), shown(1, "a"));
        let mut all = [shown(1, "a"), shown(2, "a"), shown(1, "b")].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 300);
    }

    #[test]
    fn every_character_of_the_alphabet_is_used_about_equally_often() {
        let request = Idempotency { user_id: UserId::from_bytes([1; 16]), key: "k".to_owned(), request_hash: [0; 32] };
        let text: String = codes(&[7; 32], &request, BATCH_MAX).into_iter().map(|code| code.0).collect();
        for character in ALPHABET {
            // 25,000 characters over 32: 781 expected, standard deviation 27.
            let count = text.bytes().filter(|byte| byte == character).count();
            assert!((620..=940).contains(&count), "{} stands {count} times", char::from(*character));
        }
    }
}
