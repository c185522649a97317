//! Dividing the relays' pool by bytes, to the last minor unit.

use std::collections::BTreeMap;

use protocol::{Amount, Bytes, TerminalId};

use super::{RelayPart, SourceBytes};

/// A source's claim on the pool while the leftover units are handed out.
struct Claim {
    source: TerminalId,
    bytes: u64,
    amount: u64,
    /// What the division by bytes left, in units of 1 / all bytes.
    remainder: u128,
}

/// The relays' parts of `pool`, ascending by terminal id. Every source's part is its share by bytes, rounded down; the units that are left go one
/// each to the largest remainders, among equals to the smaller terminal id, to the origin last. `held` counts as sent by the origin, whose
/// part is not in the answer: it stays with the publisher.
///
/// `None` if a number leaves its bounds, which sums below 2^64 bytes and a pool below 2^53 cannot cause.
pub(super) fn relay_parts(pool: Amount, sources: &[SourceBytes], held: Bytes) -> Option<Vec<RelayPart>> {
    let mut bytes_of: BTreeMap<TerminalId, u64> = BTreeMap::new();
    for source in sources.iter().chain([&SourceBytes { source: TerminalId::ORIGIN, bytes: held }]) {
        let bytes = bytes_of.entry(source.source).or_default();
        *bytes = bytes.checked_add(source.bytes.0)?;
    }
    bytes_of.retain(|_, bytes| *bytes > 0);
    let total = bytes_of.values().try_fold(0u128, |sum, bytes| sum.checked_add(u128::from(*bytes)))?;
    let mut claims = Vec::with_capacity(bytes_of.len());
    let mut left = pool.0;
    for (source, bytes) in bytes_of {
        let product = u128::from(pool.0).checked_mul(u128::from(bytes))?;
        let amount = u64::try_from(product.checked_div(total)?).ok()?;
        left = left.checked_sub(amount)?;
        claims.push(Claim { source, bytes, amount, remainder: product.checked_rem(total)? });
    }
    claims
        .sort_by(|a, b| b.remainder.cmp(&a.remainder).then(a.source.is_origin().cmp(&b.source.is_origin())).then(a.source.cmp(&b.source)));
    // Fewer units are left than there are claims, because each claim lost less than one to rounding.
    for claim in claims.iter_mut().take(usize::try_from(left).ok()?) {
        claim.amount = claim.amount.checked_add(1)?;
    }
    claims.retain(|claim| !claim.source.is_origin());
    claims.sort_by_key(|claim| claim.source);
    Some(
        claims
            .into_iter()
            .map(|claim| RelayPart { terminal_id: claim.source, bytes: Bytes(claim.bytes), amount: Amount(claim.amount) })
            .collect(),
    )
}
