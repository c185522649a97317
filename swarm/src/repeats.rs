//! Chunks that an edition contains more than once, such as its runs of zeros. Only the first of equal chunks travels; the others are written from it,
//! and signed for as had, not as sent.

use std::collections::{BTreeMap, VecDeque};

use protocol::bitmap::ChunkSet;
use protocol::manifest::Manifest;

use crate::Now;
use crate::action::Action;
use crate::machine::Swarm;

/// Chunks written from an equal one at a time: at most 32 MiB, so that what else is to be written never waits long. Zeros cost nothing but their
/// journal records.
const BATCH: usize = 256;

/// Which chunks repeat which, and what is to be written of them.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// The first of equal chunks, and the later ones in ascending order.
    later: BTreeMap<u32, Vec<u32>>,
    all: ChunkSet,
    /// Firsts that are here, and how many of their repeats were looked at.
    waiting: VecDeque<(u32, usize)>,
    writing: bool,
}

impl Repeats {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let key = |chunk: u32| manifest.chunks.get(chunk as usize).map(|entry| (entry.hash.0, entry.length));
        let mut order: Vec<u32> = (0..manifest.chunk_count()).collect();
        order.sort_unstable_by_key(|&chunk| (key(chunk), chunk));
        let mut repeats = Self::default();
        for equal in order.chunk_by(|&a, &b| key(a) == key(b)) {
            if let [first, later @ ..] = equal
                && !later.is_empty()
            {
                later.iter().for_each(|&chunk| _ = repeats.all.insert(chunk));
                repeats.later.insert(*first, later.to_vec());
            }
        }
        repeats
    }

    /// Every chunk that is not the first of its kind.
    pub(crate) fn all(&self) -> &ChunkSet {
        &self.all
    }

    /// A chunk is here: its repeats can be written.
    pub(crate) fn arrived(&mut self, chunk: u32) {
        if self.later.contains_key(&chunk) {
            self.waiting.push_back((chunk, 0));
        }
    }

    /// What to write next, if nothing is being written: a chunk that is here, and the places of its repeats that `is_needed` asks for.
    fn next_batch(&mut self, is_needed: impl Fn(u32) -> bool) -> Option<(u32, Vec<u32>)> {
        if self.writing {
            return None;
        }
        while let Some((first, from)) = self.waiting.front_mut() {
            let (first, later) = (*first, self.later.get(first).map_or(&[][..], Vec::as_slice));
            let mut into = Vec::new();
            while into.len() < BATCH
                && let Some(&chunk) = later.get(*from)
            {
                *from += 1;
                if is_needed(chunk) {
                    into.push(chunk);
                }
            }
            if *from >= later.len() {
                self.waiting.pop_front();
            }
            if !into.is_empty() {
                self.writing = true;
                return Some((first, into));
            }
        }
        None
    }

    /// Looks at every repeat again whose first is here.
    pub(crate) fn look_again(&mut self, have: &ChunkSet) {
        self.waiting = self.later.keys().filter(|first| have.contains(**first)).map(|first| (*first, 0)).collect();
    }
}

impl Swarm {
    /// Has the next repeats written.
    pub(crate) fn write_repeats(&mut self) {
        let (have, pending) = (&self.have, &self.pending);
        if let Some((chunk, into)) = self.repeats.next_batch(|chunk| !have.contains(chunk) && !pending.contains_key(&chunk)) {
            self.actions.push_back(Action::Repeat { chunk, into });
        }
    }

    /// The repeats of an [`Action::Repeat`] are written and noted, with this terminal as their source.
    pub fn handle_repeated(&mut self, chunks: &[u32], now: Now) {
        self.repeats.writing = false;
        self.progressed_at = now;
        let (count, me) = (self.manifest.chunk_count(), self.config.me);
        for &chunk in chunks.iter().filter(|chunk| **chunk < count) {
            if self.hold(chunk) {
                self.count_verified(chunk, me);
            }
        }
        self.complete_if_whole();
        if self.completed {
            self.report_due = now;
        }
        self.write_repeats();
    }
}

#[cfg(test)]
mod tests {
    use protocol::manifest::{ChunkEntry, FileEntry};
    use protocol::{Blake3, Bytes};

    use super::*;

    fn manifest(kinds: &[u8]) -> Manifest {
        let length = Bytes(kinds.len() as u64);
        let chunks = kinds.iter().map(|&kind| ChunkEntry { length: 1, hash: Blake3([kind; 32]) }).collect();
        let files = vec![FileEntry { path: "a".into(), length, executable: false }];
        Manifest { directory: false, length, blake3: Blake3([0; 32]), files, chunks }
    }

    #[test]
    fn only_the_first_of_equal_chunks_is_no_repeat() {
        let repeats = Repeats::new(&manifest(&[7, 1, 7, 2, 1, 7]));
        assert_eq!(repeats.all().iter().collect::<Vec<_>>(), [2, 4, 5]);
        assert!(Repeats::new(&manifest(&[1, 2, 3])).all().is_empty());
    }

    #[test]
    fn repeats_are_written_in_batches_one_after_the_other() {
        let kinds = vec![9; BATCH + 10];
        let mut repeats = Repeats::new(&manifest(&kinds));
        assert_eq!(repeats.next_batch(|_| true), None, "the first is not here yet");
        repeats.arrived(0);
        let (first, into) = repeats.next_batch(|chunk| chunk != 3).unwrap();
        assert_eq!((first, into.len(), into.contains(&3)), (0, BATCH, false));
        assert_eq!(repeats.next_batch(|_| true), None, "one batch at a time");
        repeats.writing = false;
        assert_eq!(repeats.next_batch(|_| true).unwrap().1.len(), 8);
        repeats.writing = false;
        assert_eq!(repeats.next_batch(|_| true), None);
        repeats.look_again(&[0].into_iter().collect());
        assert_eq!(repeats.next_batch(|chunk| chunk == 3), Some((0, vec![3])));
    }
}
