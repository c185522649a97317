//! What happens when: events by their time, those of the same time in the order in which they were posted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use swarm::Now;

/// The events to come. Entries of the heap stay small; the events themselves lie still.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Now, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    posted: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), posted: 0 }
    }

    pub(crate) fn post(&mut self, at: Now, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.heap.push(Reverse((at, self.posted, place)));
        self.posted += 1;
    }

    pub(crate) fn next_at(&self) -> Option<Now> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Now, E)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        self.events.get_mut(place)?.take().map(|event| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_in_which_they_were_posted() {
        let mut queue = Queue::new();
        for (at, name) in [(5, "c"), (1, "a"), (5, "d"), (3, "b")] {
            queue.post(Now::from_secs(at), name);
        }
        assert_eq!(queue.pop(), Some((Now::from_secs(1), "a")));
        queue.post(Now::from_secs(5), "e");
        let rest: Vec<&str> = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!((rest, queue.next_at()), (vec!["b", "c", "d", "e"], None));
    }
}
