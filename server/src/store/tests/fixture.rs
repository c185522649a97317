//! A small world: users with terminals and money, a content, a release on its way.

use protocol::bitmap::{ChunkSet, SEGMENT_CHUNKS};
use protocol::rest::{Application, NewApplication, NewRelease, NewVouchers, Rank, Release, Selection, Vouchers};
use protocol::{Amount, BasisPoints, Bytes, ContentId, Currency, DeliveryId, EditionId, ErrorCode, Money, ReleaseId, TerminalId, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::store::idempotency::{Answer, Idempotency};
use crate::store::testing::TestDatabase;
use crate::store::{Store, StoreError};

/// When every test begins.
pub(super) const START: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

/// The releases made here open at once, close after 10 minutes, start after 20, and give up 5 minutes after the last wave.
pub(super) const CLOSES: OffsetDateTime = time::macros::datetime!(2026-11-21 12:10 UTC);
pub(super) const STARTS: OffsetDateTime = time::macros::datetime!(2026-11-21 12:20 UTC);

/// 1,000 bytes in four chunks.
pub(super) const CHUNKS: [u32; 4] = [400, 300, 200, 100];

pub(super) struct World {
    pub(super) store: Store,
    // Dropped last, after the pool.
    pub(super) database: TestDatabase,
}

pub(super) fn eur(amount: u64) -> Money {
    Money { amount: Amount(amount), currency: Currency::EUR }
}

/// A request that nobody has sent before.
pub(super) fn request(user_id: UserId) -> Idempotency {
    let key = Uuid::new_v4().to_string();
    Idempotency { user_id, request_hash: *blake3::hash(key.as_bytes()).as_bytes(), key }
}

pub(super) fn code_of<T: std::fmt::Debug>(result: Result<T, StoreError>) -> ErrorCode {
    result.expect_err("it was not refused").code()
}

impl World {
    pub(super) async fn new() -> Self {
        let (database, store) = TestDatabase::migrated().await;
        Self { store, database }
    }

    pub(super) async fn user(&self) -> UserId {
        self.user_with("user").await
    }

    pub(super) async fn user_with(&self, role: &str) -> UserId {
        let id = Uuid::now_v7();
        sqlx::query("INSERT INTO users (id, email, password_hash, role, created_at, password_changed_at) VALUES ($1, $2, '', $3, $4, $4)")
            .bind(id)
            .bind(format!("{id}@example.org"))
            .bind(role)
            .bind(START)
            .execute(self.store.raw())
            .await
            .unwrap();
        UserId(id)
    }

    pub(super) async fn terminal(&self, user_id: UserId) -> TerminalId {
        let id = Uuid::now_v7();
        sqlx::query(
            "INSERT INTO terminals (id, user_id, name, public_key, up_bps, down_bps, created_at) VALUES ($1, $2, 't', $3, 0, 0, $4)",
        )
        .bind(id)
        .bind(user_id.0)
        .bind(blake3::hash(id.as_bytes()).as_bytes().as_slice())
        .bind(START)
        .execute(self.store.raw())
        .await
        .unwrap();
        TerminalId(id)
    }

    /// Gives money to a user the only way there is: a voucher.
    pub(super) async fn fund(&self, user_id: UserId, amount: u64) {
        let code = self.voucher(amount, None).await;
        self.store.redeem_voucher(&code, &request(user_id), START).await.unwrap();
    }

    /// The code of a fresh voucher.
    pub(super) async fn voucher(&self, amount: u64, expires_at: Option<OffsetDateTime>) -> String {
        let operator = self.user_with("operator").await;
        let new = NewVouchers { count: 1, value: eur(amount), expires_at };
        let made: Vouchers = self.store.create_vouchers(&new, &request(operator), START).await.unwrap().read().unwrap();
        made.codes.into_iter().next().unwrap()
    }

    /// A terminal of a new user with this much money.
    pub(super) async fn bidder(&self, amount: u64) -> (UserId, TerminalId) {
        let user_id = self.user().await;
        if amount > 0 {
            self.fund(user_id, amount).await;
        }
        (user_id, self.terminal(user_id).await)
    }

    /// A new publisher's content with editions of [`CHUNKS`].
    pub(super) async fn content(&self, editions: usize) -> (UserId, ContentId, Vec<EditionId>) {
        let publisher = self.user_with("publisher").await;
        let content_id = Uuid::now_v7();
        sqlx::query("INSERT INTO contents (id, publisher_id, title, created_at) VALUES ($1, $2, 'c', $3)")
            .bind(content_id)
            .bind(publisher.0)
            .bind(START)
            .execute(self.store.raw())
            .await
            .unwrap();
        let mut ids = Vec::new();
        for number in 0..editions {
            let id = *blake3::hash(format!("{content_id}/{number}").as_bytes()).as_bytes();
            sqlx::query("INSERT INTO editions (id, directory, length, chunks, blake3, created_at) VALUES ($1, false, 1000, 4, $1, $2)")
                .bind(id.as_slice())
                .bind(START)
                .execute(self.store.raw())
                .await
                .unwrap();
            sqlx::query("INSERT INTO content_editions (content_id, edition_id, label, created_at) VALUES ($1, $2, $3, $4)")
                .bind(content_id)
                .bind(id.as_slice())
                .bind(format!("e{number}"))
                .bind(START)
                .execute(self.store.raw())
                .await
                .unwrap();
            ids.push(EditionId(id));
        }
        (publisher, ContentId(content_id), ids)
    }

    /// A release of one edition, open at [`START`], whose ranks have these (weight, capacity).
    pub(super) async fn release(&self, ranks: &[(u32, u32)], reserve: u64) -> Release {
        let (publisher, content_id, editions) = self.content(1).await;
        self.schedule(publisher, &new_release(content_id, &editions, ranks, reserve)).await
    }

    pub(super) async fn schedule(&self, publisher: UserId, new: &NewRelease) -> Release {
        self.store.create_release(new, &request(publisher), START).await.unwrap().read().unwrap()
    }

    pub(super) async fn apply(
        &self,
        release: &Release,
        (user_id, terminal_id): (UserId, TerminalId),
        rank: u32,
        maximum: u64,
    ) -> Result<Application, StoreError> {
        let new = NewApplication { terminal_id, edition_id: release.editions[0].edition_id, rank, maximum: eur(maximum) };
        self.store.apply(release.id, &new, &request(user_id), START).await.and_then(|answer: Answer| answer.read())
    }

    /// (available, held)
    pub(super) async fn purse(&self, user_id: UserId) -> (u64, u64) {
        let wallet = self.store.wallet(user_id).await.unwrap();
        (wallet.available.amount.0, wallet.held.amount.0)
    }

    pub(super) async fn earnings(&self, publisher: UserId) -> i64 {
        self.store.wallet(publisher).await.unwrap().publisher_balance.unwrap().amount
    }

    pub(super) async fn delivery_of(&self, application: &Application, user_id: UserId) -> DeliveryId {
        self.store.application(application.id, user_id).await.unwrap().award.expect("it has won").delivery_id
    }

    /// What the receiver has signed for one source, as it stands when it was checked and credited.
    pub(super) async fn credit(&self, delivery_id: DeliveryId, source: TerminalId, chunks: &[u32]) {
        let set: ChunkSet = chunks.iter().copied().collect();
        for segment in 0..=chunks.iter().max().unwrap() / SEGMENT_CHUNKS {
            let bitmap = set.segment(segment);
            sqlx::query(
                "INSERT INTO receipts (delivery_id, source, segment, sequence, signed_at_ms, bitmap, credited, signature, recorded_at)
                 VALUES ($1, $2, $3, 1, 0, $4, $4, $5, $6)",
            )
            .bind(delivery_id.0)
            .bind(source.0)
            .bind(i32::try_from(segment).unwrap())
            .bind(bitmap.as_slice())
            .bind([0u8; 64].as_slice())
            .bind(STARTS)
            .execute(self.store.raw())
            .await
            .unwrap();
        }
    }

    pub(super) async fn state_of(&self, release_id: ReleaseId) -> protocol::rest::ReleaseState {
        self.store.release(release_id).await.unwrap().state
    }
}

pub(super) fn new_release(content_id: ContentId, editions: &[EditionId], ranks: &[(u32, u32)], reserve: u64) -> NewRelease {
    let ranks: Vec<Rank> = (0u32..)
        .zip(ranks)
        .map(|(index, &(weight, capacity))| Rank { weight, delay_s: index * 60, capacity: Some(capacity), duty: None })
        .collect();
    NewRelease {
        content_id,
        sealed: false,
        title: "a release".to_owned(),
        editions: editions.to_vec(),
        ranks,
        selection: Selection::Auction,
        reserve: eur(reserve),
        opens_at: START,
        closes_at: CLOSES,
        starts_at: STARTS,
        origin_budget: Bytes(1_010 * editions.len() as u64),
        relay_share: BasisPoints::new(5_000).unwrap(),
        fee: BasisPoints::new(1_000).unwrap(),
        limit_s: 300,
        primaries_max: None,
        places_max: None,
        wave_interval_s: None,
    }
}

/// After the moment by some minutes.
pub(super) fn after(moment: OffsetDateTime, minutes: i64) -> OffsetDateTime {
    moment + Duration::minutes(minutes)
}
