//! When a terminal counts as silent for its group.

/// However few neighbours a terminal has, the word of one of them is not enough.
const NEIGHBOURS_MIN: usize = 2;
/// And where they are many, a third of them: a line that loses packets is silent for one neighbour or another all the time.
const PART: usize = 3;

/// How many different neighbours must find a terminal silent before it is removed from its group, of the `linked` ones that it has.
pub fn reports_needed(linked: usize) -> usize {
    linked.div_ceil(PART).max(NEIGHBOURS_MIN)
}

/// How long terminals may take to connect again to a server that comes back: the longest pause before they try, and some.
const BACK_MS: u64 = 15_000;

/// Whether it means anything that nobody of the wave before is connected, all in milliseconds of one clock: not for a while after the server came back
/// (`since`) if it was away when that wave opened (`opened`). Nobody could have been served then, and nobody has had the time to connect again.
pub fn absence_is_known(since: u64, opened: u64, now: u64) -> bool {
    since <= opened || now.saturating_sub(since) >= BACK_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_neighbours_and_two_at_least_must_agree() {
        assert_eq!([0, 1, 2, 6, 7, 15, 16, 272].map(reports_needed), [2, 2, 2, 2, 3, 5, 6, 91]);
    }

    #[test]
    fn a_server_that_missed_an_opening_does_not_know_for_a_while_who_is_there() {
        assert!(absence_is_known(1_000, 5_000, 6_000), "it was there");
        assert!(!absence_is_known(9_000, 5_000, 9_100) && !absence_is_known(9_000, 5_000, 23_999));
        assert!(absence_is_known(9_000, 5_000, 24_000), "whoever is alive has connected again");
    }
}
