//! What was loaded lately, within a bound on memory: the one that was not used for longest goes first.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tokio::time::Instant;

/// Values by their key. Whoever holds one keeps it beyond the shelf.
#[derive(Debug)]
pub(super) struct Shelf<K, V> {
    entries: HashMap<K, Entry<V>>,
    bytes: usize,
    bytes_max: usize,
    /// Counts uses.
    uses: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
    loaded_at: Instant,
    /// When it was last compared with where it came from.
    looked_at: Instant,
    used: u64,
}

/// A value with what is known of its age.
#[derive(Debug)]
pub(super) struct Found<V> {
    pub(super) value: Arc<V>,
    pub(super) loaded_at: Instant,
    pub(super) looked_at: Instant,
}

impl<K: Copy + Eq + Hash, V> Shelf<K, V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), bytes: 0, bytes_max, uses: 0 }
    }

    pub(super) fn get(&mut self, key: K) -> Option<Found<V>> {
        self.uses += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.uses;
        Some(Found { value: Arc::clone(&entry.value), loaded_at: entry.loaded_at, looked_at: entry.looked_at })
    }

    /// Puts a value of so many bytes there. It stays even if it is larger than the bound by itself: then it is the only one.
    pub(super) fn put(&mut self, key: K, value: Arc<V>, bytes: usize, loaded_at: Instant) {
        self.forget(key);
        while self.bytes + bytes > self.bytes_max {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(&key, _)| key) else { break };
            self.forget(oldest);
        }
        self.uses += 1;
        self.bytes += bytes;
        self.entries.insert(key, Entry { value, bytes, loaded_at, looked_at: loaded_at, used: self.uses });
    }

    /// The value was compared with where it came from, and is to be used on.
    pub(super) fn looked(&mut self, key: K, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.looked_at = at;
        }
    }

    pub(super) fn forget(&mut self, key: K) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(shelf: &Shelf<u8, u8>) -> Vec<u8> {
        let mut keys: Vec<u8> = shelf.entries.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn what_was_not_used_for_longest_goes_when_a_new_one_does_not_fit() {
        let mut shelf = Shelf::new(100);
        let now = Instant::now();
        for key in [1, 2, 3] {
            shelf.put(key, Arc::new(key), 30, now);
        }
        assert_eq!(*shelf.get(1).unwrap().value, 1);
        shelf.put(4, Arc::new(4), 30, now);
        assert_eq!(keys(&shelf), [1, 3, 4]);
        shelf.put(5, Arc::new(5), 70, now);
        assert_eq!(keys(&shelf), [4, 5]);
        // The same one anew is counted once.
        shelf.put(5, Arc::new(6), 60, now);
        assert_eq!((keys(&shelf), shelf.bytes), (vec![4, 5], 90));
        shelf.forget(5);
        assert_eq!((keys(&shelf), shelf.bytes), (vec![4], 30));
    }

    #[test]
    fn one_that_is_larger_than_the_bound_is_there_alone() {
        let mut shelf = Shelf::new(100);
        let now = Instant::now();
        shelf.put(1, Arc::new(1), 30, now);
        shelf.put(2, Arc::new(2), 300, now);
        assert_eq!(keys(&shelf), [2]);
        shelf.put(3, Arc::new(3), 30, now);
        assert_eq!((keys(&shelf), shelf.bytes), (vec![3], 30));
    }
}
