//! Dividing what relays get of a charge, to the last minor unit.

use std::collections::BTreeMap;

use protocol::{Amount, BasisPoints, Bytes, TerminalId};

use super::{RelayPart, SourceBytes};

/// A source's claim on the pool while the leftover units are handed out.
struct Claim {
    source: TerminalId,
    bytes: u64,
    /// bytes · share, in units that all shares are whole numbers of.
    weight: u128,
    amount: u64,
    /// What the division by weight left, in units of 1 / all weights.
    remainder: u128,
}

/// The pool, and the relays' parts of it, ascending by terminal id: what the pool leaves of the origin's part stays with the publisher.
pub(super) struct Division {
    pub(super) pool: Amount,
    pub(super) relays: Vec<RelayPart>,
}

/// Divides `rest`, what the fee leaves of a charge. Each source is due rest · its part of all bytes · its share. The pool is the sum of that, rounded down; so is
/// each part of it, and the units that are left go one each to the largest remainders, among equals to the smaller terminal id, to the origin last.
/// `held` counts as sent by the origin.
///
/// `None` if a number leaves its bounds, which sums below 2^53 bytes and a rest below 2^53 cannot cause.
pub(super) fn divide(rest: Amount, sources: &[SourceBytes], held: Bytes, share_of: impl Fn(TerminalId) -> BasisPoints) -> Option<Division> {
    let mut bytes_of: BTreeMap<TerminalId, u64> = BTreeMap::new();
    for source in sources.iter().chain([&SourceBytes { source: TerminalId::ORIGIN, bytes: held }]) {
        let bytes = bytes_of.entry(source.source).or_default();
        *bytes = bytes.checked_add(source.bytes.0)?;
    }
    bytes_of.retain(|_, bytes| *bytes > 0);
    // One share for all makes every weight the bytes themselves, so that no product is larger than it must be.
    let unit = bytes_of.keys().map(|&source| u128::from(share_of(source).get())).fold(0, greatest_common_divisor);
    let mut claims = Vec::with_capacity(bytes_of.len());
    let (mut total, mut weights) = (0u128, 0u128);
    for (source, bytes) in bytes_of {
        let weight = u128::from(share_of(source).get()).checked_div(unit).unwrap_or(0).checked_mul(bytes.into())?;
        total = total.checked_add(bytes.into())?;
        weights = weights.checked_add(weight)?;
        claims.push(Claim { source, bytes, weight, amount: 0, remainder: 0 });
    }
    let pool = pool(rest, unit, weights, total)?;
    let mut left = pool.0;
    for claim in &mut claims {
        let product = u128::from(pool.0).checked_mul(claim.weight)?;
        // Without any weight there is nothing to divide.
        claim.amount = u64::try_from(product.checked_div(weights).unwrap_or(0)).ok()?;
        claim.remainder = product.checked_rem(weights).unwrap_or(0);
        left = left.checked_sub(claim.amount)?;
    }
    claims
        .sort_by(|a, b| b.remainder.cmp(&a.remainder).then(a.source.is_origin().cmp(&b.source.is_origin())).then(a.source.cmp(&b.source)));
    // Fewer units are left than there are claims with a remainder, because each of them lost less than one to rounding.
    for claim in claims.iter_mut().take(usize::try_from(left).ok()?) {
        claim.amount = claim.amount.checked_add(1)?;
    }
    claims.retain(|claim| !claim.source.is_origin());
    claims.sort_by_key(|claim| claim.source);
    let part = |claim: Claim| RelayPart { terminal_id: claim.source, bytes: Bytes(claim.bytes), amount: Amount(claim.amount) };
    Some(Division { pool, relays: claims.into_iter().map(part).collect() })
}

/// ⌊rest · unit · weights / (10,000 · total)⌋
fn pool(rest: Amount, unit: u128, weights: u128, total: u128) -> Option<Amount> {
    if weights == 0 {
        return Some(Amount(0));
    }
    let shares = u128::from(rest.0).checked_mul(unit)?;
    let exact = if weights == total {
        shares.checked_div(BasisPoints::ALL.get().into())?
    } else {
        shares.checked_mul(weights)?.checked_div(total.checked_mul(BasisPoints::ALL.get().into())?)?
    };
    u64::try_from(exact).ok().map(Amount)
}

fn greatest_common_divisor(a: u128, b: u128) -> u128 {
    match a.checked_rem(b) {
        None => a,
        Some(rest) => greatest_common_divisor(b, rest),
    }
}
