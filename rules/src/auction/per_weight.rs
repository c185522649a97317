//! Prices per unit of rank weight: exact fractions, and exact sums of them.

use std::cmp::Ordering;

use protocol::Amount;
use serde::{Deserialize, Serialize};

/// A price per weight, `amount / weight`: a bid's b_i = m_i / w_{r_i}, or the reserve ρ. Compared by value: 1/2 equals 2/4.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerWeight {
    pub amount: Amount,
    pub weight: u32,
}

impl PerWeight {
    /// An integer that orders prices per weight exactly as the fractions themselves are ordered, so that a million bids are sorted without a
    /// multiplication per comparison.
    ///
    /// It is ⌊2^40 · amount / weight⌋. Two different fractions with weights up to 10^6 are at least 10^−12 apart, which is more than 2^−40, so
    /// their keys differ by at least one in the same direction; equal fractions have equal keys. With amounts below 2^53 it takes 93 bits.
    /// `None` beyond these bounds.
    pub(super) fn sort_key(self) -> Option<u128> {
        let weight = u64::from(self.weight);
        let whole = self.amount.0.checked_div(weight)?;
        let rest = self.amount.0.checked_rem(weight)?;
        let fraction = rest.checked_mul(1 << 40)?.checked_div(weight)?;
        u128::from(whole).checked_mul(1 << 40)?.checked_add(u128::from(fraction))
    }
}

impl Ord for PerWeight {
    fn cmp(&self, other: &Self) -> Ordering {
        // A product of 64 and 32 bits cannot leave 128.
        let left = u128::from(self.amount.0).saturating_mul(u128::from(other.weight));
        let right = u128::from(other.amount.0).saturating_mul(u128::from(self.weight));
        left.cmp(&right)
    }
}

impl PartialOrd for PerWeight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PerWeight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PerWeight {}

/// A sum of fractions that is rounded once, at the end, and never before.
///
/// A rank's price adds up one fraction per step, each over another weight, so the common denominator of 16 ranks needs 320 bits; it is kept in
/// 32-bit limbs, least significant first. This runs once per rank, not per bid.
#[derive(Debug)]
pub(super) struct ExactSum {
    whole: u128,
    /// What `whole` leaves, below 1, as numerator over denominator; both have the same number of limbs.
    numerator: Vec<u32>,
    denominator: Vec<u32>,
}

impl ExactSum {
    pub(super) fn zero() -> Self {
        Self { whole: 0, numerator: vec![0], denominator: vec![1] }
    }

    /// Adds `factor · price`; `None` if the price has no weight or the sum leaves 128 bits.
    pub(super) fn add(&mut self, factor: u32, price: PerWeight) -> Option<()> {
        let dividend = u128::from(price.amount.0).checked_mul(u128::from(factor))?;
        let weight = u128::from(price.weight);
        self.whole = self.whole.checked_add(dividend.checked_div(weight)?)?;
        let rest = u32::try_from(dividend.checked_rem(weight)?).ok()?;
        if rest == 0 {
            return Some(());
        }
        // n/d + rest/weight = (n·weight + d·rest) / (d·weight), which is below 2.
        let mut numerator = times(&self.numerator, price.weight);
        add_times(&mut numerator, &self.denominator, rest)?;
        self.denominator = times(&self.denominator, price.weight);
        if numerator.iter().rev().ge(self.denominator.iter().rev()) {
            subtract(&mut numerator, &self.denominator);
            self.whole = self.whole.checked_add(1)?;
        }
        self.numerator = numerator;
        Some(())
    }

    /// The sum, rounded down.
    pub(super) fn floor(&self) -> u128 {
        self.whole
    }
}

/// `limbs · factor`, one limb longer.
fn times(limbs: &[u32], factor: u32) -> Vec<u32> {
    let mut carry = 0;
    let mut product = Vec::with_capacity(limbs.len().saturating_add(1));
    for limb in limbs {
        let (low, high) = limb.carrying_mul(factor, carry);
        product.push(low);
        carry = high;
    }
    product.push(carry);
    product
}

/// Adds `limbs · factor` to `target`, which has one limb more.
fn add_times(target: &mut [u32], limbs: &[u32], factor: u32) -> Option<()> {
    let (last, lower) = target.split_last_mut()?;
    let mut carry = 0;
    for (sum, limb) in lower.iter_mut().zip(limbs) {
        (*sum, carry) = limb.carrying_mul_add(factor, carry, *sum);
    }
    *last = last.checked_add(carry)?;
    Some(())
}

/// Subtracts `limbs`, which are not more than `target` and as long.
fn subtract(target: &mut [u32], limbs: &[u32]) {
    let mut borrow = false;
    for (difference, limb) in target.iter_mut().zip(limbs) {
        (*difference, borrow) = difference.borrowing_sub(*limb, borrow);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests compute expectations on small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::super::book::WEIGHT_MAX;
    use super::*;

    fn price() -> impl Strategy<Value = PerWeight> {
        let amount = prop_oneof![0..40u64, 0..=protocol::units::JSON_INTEGER_MAX];
        let weight = prop_oneof![1..12u32, 1..=WEIGHT_MAX, WEIGHT_MAX - 3..=WEIGHT_MAX];
        (amount, weight).prop_map(|(amount, weight)| PerWeight { amount: Amount(amount), weight })
    }

    proptest! {
        #[test]
        fn the_sort_key_orders_prices_as_cross_multiplication_does(left in price(), right in price()) {
            prop_assert_eq!(left.sort_key().unwrap().cmp(&right.sort_key().unwrap()), left.cmp(&right));
        }

        /// With weights whose least common multiple is small, 128 bits hold the whole sum over one denominator.
        #[test]
        fn an_exact_sum_rounds_once(terms in proptest::collection::vec((0..=1000u32, 0..1_000_000u64, 1..=16u32), 0..40)) {
            const COMMON: u128 = 720_720;
            let mut sum = ExactSum::zero();
            let mut expected = 0;
            for &(factor, amount, weight) in &terms {
                sum.add(factor, PerWeight { amount: Amount(amount), weight }).unwrap();
                expected += u128::from(factor) * u128::from(amount) * (COMMON / u128::from(weight));
            }
            prop_assert_eq!(sum.floor(), expected / COMMON);
        }
    }

    /// a/w − c/v = 1/(w·v) is the least distance that two different prices can have; large weights make it smallest.
    #[test]
    fn the_sort_key_tells_the_closest_prices_apart() {
        let mut pairs = 0;
        for w in u64::from(WEIGHT_MAX) - 60..=u64::from(WEIGHT_MAX) {
            for v in w - 60..w {
                // a·v ≡ 1 modulo w, if there is such an a.
                let Some(a) = inverse(v, w) else { continue };
                let price = |amount: u64, weight: u64| PerWeight { amount: Amount(amount), weight: u32::try_from(weight).unwrap() };
                let (above, below) = (price(a, w), price((a * v - 1) / w, v));
                assert!(above > below && above.sort_key() > below.sort_key(), "{above:?} {below:?}");
                pairs += 1;
            }
        }
        assert!(pairs > 1000, "only {pairs} pairs have no common divisor");
    }

    /// The inverse of `value` modulo `modulus`, by Euclid's algorithm.
    fn inverse(value: u64, modulus: u64) -> Option<u64> {
        let modulus = i64::try_from(modulus).unwrap();
        let (mut rest, mut next, mut factor, mut next_factor) = (modulus, i64::try_from(value).unwrap(), 0, 1);
        while next != 0 {
            let quotient = rest / next;
            (rest, next) = (next, rest - quotient * next);
            (factor, next_factor) = (next_factor, factor - quotient * next_factor);
        }
        (rest == 1).then(|| u64::try_from(factor.rem_euclid(modulus)).unwrap())
    }

    #[test]
    fn thirty_two_large_denominators_still_add_up_to_a_whole_exactly() {
        // Σ (w−1)/w + Σ 1/w over 32 weights is exactly 32; any rounding on the way would give 31.
        let mut sum = ExactSum::zero();
        for weight in WEIGHT_MAX - 31..=WEIGHT_MAX {
            sum.add(weight - 1, PerWeight { amount: Amount(1), weight }).unwrap();
        }
        assert_eq!(sum.floor(), 31);
        for weight in WEIGHT_MAX - 31..WEIGHT_MAX {
            sum.add(1, PerWeight { amount: Amount(1), weight }).unwrap();
        }
        assert_eq!(sum.floor(), 31, "one millionth is still missing");
        sum.add(1, PerWeight { amount: Amount(1), weight: WEIGHT_MAX }).unwrap();
        assert_eq!(sum.floor(), 32);
    }

    #[test]
    fn a_price_without_a_weight_is_no_price() {
        let broken = PerWeight { amount: Amount(1), weight: 0 };
        assert_eq!(broken.sort_key(), None);
        assert_eq!(ExactSum::zero().add(1, broken), None);
    }
}
