//! When a terminal counts as silent for its group.

/// However few neighbours a terminal has, the word of one of them is not enough.
const NEIGHBOURS_MIN: usize = 2;
/// And where they are many, a third of them: a line that loses packets is silent for one neighbour or another all the time.
const PART: usize = 3;

/// How many different neighbours must find a terminal silent before it is removed from its group, of the `linked` ones that it has.
pub fn reports_needed(linked: usize) -> usize {
    linked.div_ceil(PART).max(NEIGHBOURS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_neighbours_and_two_at_least_must_agree() {
        assert_eq!([0, 1, 2, 6, 7, 15, 16, 272].map(reports_needed), [2, 2, 2, 2, 3, 5, 6, 91]);
    }
}
