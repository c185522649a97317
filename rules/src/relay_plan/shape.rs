//! How large the groups of a wave are and how many groups each one copies to.
//!
//! A wave of n terminals with the mean uplink ū receives F bytes in C chunks of F/C. In groups of m, each with up to k child groups, a relay sends
//! every chunk that it brings in m−1+k times, and the group brings it in with all its m uplinks. So every byte has left after F·(m−1+k)/(m·ū), and
//! the last group lags behind the first one by (m−1+k) copies of a chunk over one uplink for each of its `depth` levels:
//!
//! ```text
//! F·(m−1+k)/(m·ū) + depth·(F/C)·(m−1+k)/ū  =  F/(ū·C) · (m−1+k)·(C + m·depth)/m
//! ```
//!
//! F and ū are factors of the whole: which m and k make it least depends on n and C alone. What is compared is (m−1+k)·(C + m·depth)/m, exactly.

use super::{CHILD_GROUPS_MAX, GROUP_MEMBERS_MAX};

/// Fewest members of a group where the wave has more: a smaller group has too few relays to hide one that is slow or gone.
const GROUP_MEMBERS_MIN: usize = 8;

/// The form of a wave's tree of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Members of its largest group, 1 to [`GROUP_MEMBERS_MAX`]. The sizes of two groups differ by one at most.
    pub m: usize,
    /// Most child groups of a group within the wave, up to [`CHILD_GROUPS_MAX`]; 0 only where every group is a root.
    pub k: usize,
    /// How many groups the origin feeds where no earlier wave does; at least 1.
    pub roots: usize,
}

impl Shape {
    /// How many groups a wave of `candidates` terminals takes, and so how many ids [`super::plan_wave`] needs.
    pub fn groups(&self, candidates: usize) -> usize {
        candidates.div_ceil(self.m.max(1))
    }

    /// How many levels a tree of `groups` groups has, the roots' included; with `k` = 0 there is no level below the roots.
    pub fn depth(&self, groups: usize) -> usize {
        let below = groups.saturating_sub(self.roots);
        if self.k <= 1 {
            return usize::from(groups > 0) + self.k * below.div_ceil(self.roots.max(1));
        }
        let (mut levels, mut width, mut held) = (0, self.roots.max(1), 0usize);
        while held < groups {
            levels += 1;
            held = held.saturating_add(width);
            width = width.saturating_mul(self.k);
        }
        levels
    }

    /// (m−1+k)·(C + m·depth) and m: numerator and denominator of what is to be least.
    fn cost(&self, groups: usize, chunks: u32) -> (u128, u128) {
        let (m, k) = (self.m as u128, self.k as u128);
        ((m + k - 1) * (u128::from(chunks) + m * self.depth(groups) as u128), m)
    }
}

/// The m and k that make the formula above least for a wave of `candidates` terminals and an edition of `chunks` chunks, with `roots` groups that
/// the origin feeds (one, unless more copies of the edition are to leave it).
///
/// m is within 8..=16, or all candidates if they are fewer; only sizes count that a near-equal cut really has, so that the formula speaks of the
/// plan that is made (17 terminals make groups of 9 and 8, whether cut for 9 or for 16). k is within 1..=8, or 0 if no group is below another. Of equal
/// ones the larger m wins, which makes fewer groups, then the smaller k, which makes fewer links.
pub fn choose_shape(candidates: usize, chunks: u32, roots: usize) -> Shape {
    let roots = roots.max(1);
    let all_in_one = Shape { m: candidates.clamp(1, GROUP_MEMBERS_MAX), k: 0, roots };
    let sizes = (GROUP_MEMBERS_MIN..=GROUP_MEMBERS_MAX).rev().filter(|&m| is_made(m, candidates));
    let shapes = sizes.flat_map(|m| {
        let flat = candidates.div_ceil(m) <= roots;
        let children = if flat { 0..=0 } else { 1..=CHILD_GROUPS_MAX };
        children.map(move |k| Shape { m, k, roots })
    });
    let mut best: Option<(Shape, (u128, u128))> = None;
    for shape in shapes {
        let cost = shape.cost(shape.groups(candidates), chunks);
        // a/b < c/d without a division.
        if best.is_none_or(|(_, least)| cost.0 * least.1 < least.0 * cost.1) {
            best = Some((shape, cost));
        }
    }
    best.map_or(all_in_one, |(shape, _)| shape)
}

/// Whether the largest group has `m` members when `candidates` are cut into as few near-equal groups of at most `m` as possible.
fn is_made(m: usize, candidates: usize) -> bool {
    let groups = candidates.div_ceil(m);
    groups > 0 && candidates.div_ceil(groups) == m
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen(candidates: usize, chunks: u32) -> (usize, usize) {
        let shape = choose_shape(candidates, chunks, 1);
        (shape.m, shape.k)
    }

    #[test]
    fn b29_m_and_k_are_those_of_the_examples_worked_out_by_hand() {
        let cases = [
            ("nobody", 0, 512, (1, 0)),
            ("one terminal", 1, 512, (1, 0)),
            ("fewer than the least: all in one group", 5, 512, (5, 0)),
            // 15·(C + 16)/16 against 8·(C + 16)/8 for two groups of 8: one group, however few the chunks are.
            ("a full group", 16, 1, (16, 0)),
            ("a full group, many chunks", 16, 100_000, (16, 0)),
            // Groups of 9 and 8 are the only cut: cut for 8, 17 would be 6, 6 and 5.
            ("one more than a group holds", 17, 512, (9, 1)),
            ("twenty", 20, 512, (10, 1)),
            // 2 of 12, k = 1, two levels: 12·(C + 24)/12 = C + 24. 3 of 8: k = 1 C + 24 as well, k = 2 9·(C + 16)/8. The larger m wins.
            ("a tie goes to the larger groups", 24, 512, (12, 1)),
            // 9·(C + 16)/8 < C + 24 from C < 48 on.
            ("few chunks: the shorter tree", 24, 47, (8, 2)),
            ("at the border of it the larger groups", 24, 48, (12, 1)),
            // 125,000 groups of 8. k = 2: 17 levels, 9·(512 + 136)/8 = 729; k = 3: 12 levels, 10·(512 + 96)/8 = 760. Of 9: 10·(512 + 153)/9 = 738.9.
            // 62,500 groups of 16. k = 2: 16 levels, 17·(512 + 256)/16 = 816; k = 3: 11 levels, 18·(512 + 176)/16 = 774; k = 4: 9 levels, 779.
            ("a million terminals and 32 MiB", 1_000_000, 512, (8, 2)),
        ];
        for (name, candidates, chunks, expected) in cases {
            assert_eq!(chosen(candidates, chunks), expected, "{name}");
        }
    }

    #[test]
    fn a_long_edition_makes_the_chain_worth_its_depth() {
        // With k = 1 each byte has left after F/ū, the least there is; that a tree has fewer levels matters only for few chunks: of 8 groups of 8,
        // k = 2 has four levels and 9·(16 + 32)/8 = 54, k = 3 three and 10·(16 + 24)/8 = 50, k = 7 two and 14·(16 + 16)/8 = 56.
        assert_eq!(chosen(64, 1_000_000), (16, 1));
        assert_eq!(chosen(64, 16), (8, 3));
    }

    #[test]
    fn the_depth_of_a_tree_counts_its_roots_level() {
        let depth = |k, roots, groups| Shape { m: 16, k, roots }.depth(groups);
        let cases = [
            (0, 1, 0, 0),
            (0, 1, 1, 1),
            (0, 5, 4, 1),
            (1, 1, 7, 7),
            (1, 3, 7, 3),
            (2, 1, 1, 1),
            (2, 1, 3, 2),
            (2, 1, 4, 3),
            (2, 1, 7, 3),
            (2, 2, 6, 2),
            (2, 2, 7, 3),
            (8, 1, 9, 2),
            (8, 1, 10, 3),
            (3, 1, 62_500, 11),
        ];
        for (k, roots, groups, expected) in cases {
            assert_eq!(depth(k, roots, groups), expected, "k = {k}, {roots} roots, {groups} groups");
        }
        assert_eq!(depth(1, 1, usize::MAX), usize::MAX, "no loop over the levels of a chain");
    }

    /// Seconds by the formula as it is written, with levels counted group by group.
    fn seconds(shape: Shape, candidates: usize, length: f64, chunks: u32, up: f64) -> f64 {
        let groups = candidates.div_ceil(shape.m);
        let mut levels: Vec<usize> = Vec::new();
        for group in 0..groups {
            levels.push(if group < shape.roots { 1 } else { 1 + levels[(group - shape.roots) / shape.k] });
        }
        let depth = levels.iter().max().copied().unwrap_or(0);
        let (m, k, chunk) = (shape.m as f64, shape.k as f64, length / f64::from(chunks));
        length * (m - 1.0 + k) / (m * up) + depth as f64 * chunk * (m - 1.0 + k) / up
    }

    proptest! {
        #[test]
        fn b29_no_other_m_and_k_of_a_cut_that_is_made_takes_less_time(
            candidates in 1usize..3_000,
            chunks in 1u32..5_000,
            length in 1_000.0f64..1e12,
            up in 1_000.0f64..1e10,
            roots in 1usize..4,
        ) {
            let shape = choose_shape(candidates, chunks, roots);
            prop_assert!(shape.m <= 16 && (shape.m >= 8 || shape.m == candidates));
            prop_assert_eq!(shape.k == 0, shape.groups(candidates) <= roots);
            let own = seconds(shape, candidates, length, chunks, up);
            for m in 8..=16 {
                let groups = candidates.div_ceil(m);
                if candidates.div_ceil(groups) < m {
                    continue;
                }
                for k in if groups <= roots { 0..=0 } else { 1..=8 } {
                    let other = seconds(Shape { m, k, roots }, candidates, length, chunks, up);
                    prop_assert!(own <= other * (1.0 + 1e-12), "{shape:?}: {own} s, m = {m}, k = {k}: {other} s");
                }
            }
        }

        #[test]
        fn some_shape_is_found_for_any_wave(candidates in any::<usize>(), chunks in any::<u32>(), roots in any::<usize>()) {
            let shape = choose_shape(candidates, chunks, roots);
            prop_assert!((1..=16).contains(&shape.m) && shape.k <= 8 && shape.roots >= 1);
            prop_assert!(shape.groups(candidates).checked_mul(shape.m).is_none_or(|places| places >= candidates));
        }
    }
}
