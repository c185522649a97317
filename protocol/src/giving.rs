//! In which order the origin gives the chunks of an edition to those who copy them on.
//!
//! Ascending, but for the shortest ones. Thirty-two of them are given first: the origin's line feeds a whole group sooner, and until a terminal has its first
//! chunk its uplink is idle, and again until it has its second one. The next shortest are given last: at the end everybody waits for the relay that still copies, and what it copies is short (as in
//! scheduling the longest jobs first, Graham 1969). Server and terminals compute the same from the manifest: a terminal that knows what was given out by now
//! knows what was lost.

/// Two chunks for each member of the largest group; of a small edition an eighth.
const FIRST: usize = 32;
/// Some for each of them, or a quarter: with as many again, and in the order of their lengths, nothing was gained in the simulator.
const LAST: usize = 64;

/// The chunks that are not given in ascending order, both lists ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivingOrder {
    count: u32,
    first: Vec<u32>,
    last: Vec<u32>,
}

impl GivingOrder {
    /// Of chunks of these lengths in bytes. Where all are equally long, all are given in ascending order.
    pub fn of(lengths: impl IntoIterator<Item = u32>) -> Self {
        let mut shortest: Vec<(u32, u32)> = (0..).zip(lengths).map(|(chunk, length)| (length, chunk)).collect();
        let count = u32::try_from(shortest.len()).unwrap_or(u32::MAX);
        let first = take_shortest(&mut shortest, FIRST.min(count as usize / 8));
        for (_, chunk) in &mut shortest {
            *chunk = u32::MAX - *chunk;
        }
        let mut last: Vec<u32> =
            take_shortest(&mut shortest, LAST.min(count as usize / 4)).into_iter().map(|chunk| u32::MAX - chunk).collect();
        last.reverse();
        Self { count, first, last }
    }

    /// Ascending.
    pub fn first(&self) -> &[u32] {
        &self.first
    }

    /// Ascending.
    pub fn last(&self) -> &[u32] {
        &self.last
    }

    /// Whether it is given in ascending order, neither first nor last.
    pub fn is_in_between(&self, chunk: u32) -> bool {
        self.first.binary_search(&chunk).is_err() && self.last.binary_search(&chunk).is_err()
    }

    /// How many below this one are given first or last.
    pub fn out_of_line_below(&self, chunk: u32) -> u32 {
        let below = |chunks: &[u32]| number(chunks.partition_point(|other| *other < chunk));
        below(&self.first) + below(&self.last)
    }

    /// How many chunks are given before this one.
    pub fn place(&self, chunk: u32) -> u32 {
        match (self.first.binary_search(&chunk), self.last.binary_search(&chunk)) {
            (Ok(place), _) => number(place),
            (Err(_), Ok(place)) => self.count - number(self.last.len() - place),
            (Err(first), Err(last)) => chunk + number(self.first.len()) - number(first + last),
        }
    }

    /// A bound that all chunks are below of which fewer than `place` are given before them; those that are given first are not asked about.
    pub fn bound(&self, place: u32) -> u32 {
        let (first, last) = (number(self.first.len()), number(self.last.len()));
        if place <= first {
            return 0;
        }
        if place > self.count - last {
            return self.count;
        }
        let mut chunk = place - first - 1;
        let (mut firsts, mut lasts) = (self.first.iter().peekable(), self.last.iter().peekable());
        loop {
            let before = |next: Option<&&u32>| next.is_some_and(|other| **other <= chunk);
            if before(firsts.peek()) {
                firsts.next();
            } else if before(lasts.peek()) {
                lasts.next();
            } else {
                return chunk + 1;
            }
            chunk += 1;
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Takes so many chunks of the least (length, chunk) off the list. Ascending by chunk.
fn take_shortest(chunks: &mut Vec<(u32, u32)>, many: usize) -> Vec<u32> {
    let many = many.min(chunks.len());
    if many > 0 {
        chunks.select_nth_unstable(many - 1);
    }
    let mut taken: Vec<u32> = chunks.drain(..many).map(|(_, chunk)| chunk).collect();
    taken.sort_unstable();
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All chunks in the order in which they are given.
    fn given(order: &GivingOrder, count: u32) -> Vec<u32> {
        let mut chunks: Vec<u32> = (0..count).collect();
        chunks.sort_by_key(|chunk| order.place(*chunk));
        chunks
    }

    #[test]
    fn the_shortest_are_given_first_and_the_next_shortest_last() {
        let lengths: Vec<u32> = (0..300).map(|chunk| 100 + (chunk * 37) % 300).collect();
        let order = GivingOrder::of(lengths.iter().copied());
        let given = given(&order, 300);
        let longest = |chunks: &[u32]| chunks.iter().map(|chunk| lengths[*chunk as usize]).max().unwrap();
        let shortest = |chunks: &[u32]| chunks.iter().map(|chunk| lengths[*chunk as usize]).min().unwrap();
        assert!(longest(&given[..32]) < shortest(&given[32..]));
        assert!(longest(&given[236..]) < shortest(&given[32..236]));
        assert!([&given[..32], &given[32..236], &given[236..]].iter().all(|part| part.is_sorted()));
        assert!((0..300).all(|chunk| given[order.place(chunk) as usize] == chunk), "each has a place of its own");
    }

    #[test]
    fn equal_chunks_are_given_in_ascending_order_however_few() {
        for count in [0, 1, 7, 8, 15, 16, 17, 127, 128, 255, 256, 257, 500] {
            let order = GivingOrder::of((0..count).map(|_| 7));
            assert!((0..count).all(|chunk| order.place(chunk) == chunk), "{count}");
        }
    }

    #[test]
    fn all_that_is_given_before_a_place_is_below_its_bound_but_for_what_comes_first() {
        for count in [1, 8, 16, 40, 81, 300] {
            let order = GivingOrder::of((0..count).map(|chunk| (chunk * 7_919) % 1_000));
            for place in 0..=count {
                let before = (0..count).filter(|chunk| order.place(*chunk) < place && !order.first().contains(chunk));
                assert_eq!(
                    before.max().map_or(0, |chunk| chunk + 1).max(if place > count - number(order.last().len()) { count } else { 0 }),
                    order.bound(place),
                    "{place} of {count}"
                );
            }
        }
    }
}
