//! Chunks from the origin: leases, fetches, and what is tried again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use protocol::ws::{ChunkNotice, GrantKind};
use protocol::{Blake3, TerminalId};

use crate::Now;
use crate::action::Action;
use crate::config::{FETCH_RETRY, SPOILT_RETRY_MAX};
use crate::credits::Credits;
use crate::machine::{Pending, Relay, Swarm};

/// A granted chunk that has not been stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    retry_at: Option<Now>,
    /// Granted again since the fetch was begun.
    renewed: bool,
    kind: GrantKind,
}

/// The leases of this terminal, and how often the origin has sent which of its missing chunks wrong.
#[derive(Debug, Default)]
pub(crate) struct Fetching {
    leases: BTreeMap<u32, Lease>,
    spoilt: BTreeMap<u32, u32>,
    /// The driver was told that the origin sends wrong bytes. Once is enough: who is told can do no more about the second chunk.
    complained: bool,
}

impl Fetching {
    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn holds(&self, chunk: u32) -> bool {
        self.leases.contains_key(&chunk)
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = u32> + '_ {
        self.leases.keys().copied()
    }

    /// The chunk is here; says how it was leased, if it was.
    pub(crate) fn arrived(&mut self, chunk: u32) -> Option<GrantKind> {
        self.spoilt.remove(&chunk);
        self.leases.remove(&chunk).map(|lease| lease.kind)
    }

    /// Leases of chunks that this terminal is to copy on.
    pub(crate) fn to_relay(&self) -> usize {
        self.leases.values().filter(|lease| lease.kind != GrantKind::Direct).count()
    }

    fn is_direct(&self, chunk: u32) -> bool {
        self.leases.get(&chunk).is_some_and(|lease| lease.kind == GrantKind::Direct)
    }
}

/// How long to wait after the origin has sent a chunk wrong for the `times`th time in a row: what is wrong on its disk stays so, and every attempt costs
/// a whole chunk of everybody's budget.
fn spoilt_retry(times: u32) -> Now {
    FETCH_RETRY.saturating_mul(1 << times.saturating_sub(1).min(16)).min(SPOILT_RETRY_MAX)
}

impl Swarm {
    /// The server granted chunks to fetch from the origin.
    pub fn handle_grant(&mut self, kind: GrantKind, chunks: &[u32], now: Now) {
        let received_at = self.server_time(now);
        for &chunk in chunks.iter().filter(|chunk| **chunk < self.manifest.chunk_count()) {
            if self.settled.contains(chunk) {
                self.notices.push(ChunkNotice { chunk, received_at, copies_done_at: None });
            } else {
                match self.fetching.leases.entry(chunk) {
                    // The answer to the fetch under way may be about the lease before this one.
                    Entry::Occupied(mut lease) => {
                        let lease = lease.get_mut();
                        (lease.renewed, lease.kind) = (true, kind);
                    }
                    Entry::Vacant(lease) => {
                        lease.insert(Lease { retry_at: None, renewed: false, kind });
                        if !self.pending.contains_key(&chunk) {
                            self.actions.push_back(Action::FetchOrigin { chunk });
                        }
                    }
                }
            }
        }
        match kind {
            GrantKind::FirstCopy => self.credits.granted(u32::try_from(chunks.len()).unwrap_or(u32::MAX)),
            GrantKind::Repair => self.asking.granted(),
            GrantKind::Direct => {}
        }
        self.tick_due = now;
    }

    /// A chunk came from the origin. A wrong one is fetched again, later every time.
    pub fn handle_origin_chunk(&mut self, chunk: u32, bytes: Bytes, now: Now) {
        if self.have.contains(chunk) || self.pending.contains_key(&chunk) {
            return;
        }
        let Some(entry) = self.manifest.chunks.get(chunk as usize) else { return };
        if bytes.len() as u64 != u64::from(entry.length) || Blake3::of(&bytes) != entry.hash {
            return self.origin_spoilt(chunk, now);
        }
        self.note_replacement(chunk, TerminalId::ORIGIN, now);
        let relay = if self.fetching.is_direct(chunk) { Relay::Below } else { Relay::All };
        self.pending.insert(chunk, Pending { source: TerminalId::ORIGIN, relay, destinations: Vec::new(), hop: 0, pulled: true });
        self.store(chunk, TerminalId::ORIGIN, bytes);
    }

    fn origin_spoilt(&mut self, chunk: u32, now: Now) {
        let times = self.fetching.spoilt.entry(chunk).or_default();
        *times = times.saturating_add(1);
        let wait = spoilt_retry(*times);
        if let Some(lease) = self.fetching.leases.get_mut(&chunk) {
            (lease.retry_at, lease.renewed) = (Some(now + wait), false);
        }
        if !std::mem::replace(&mut self.fetching.complained, true) {
            self.actions.push_back(Action::OriginSpoilt { chunk });
        }
    }

    /// The origin did not send a chunk. `retry_later`: the lease still stands.
    pub fn handle_origin_failed(&mut self, chunk: u32, retry_later: bool, now: Now) {
        match self.fetching.leases.get_mut(&chunk) {
            Some(lease) if retry_later || lease.renewed => (lease.retry_at, lease.renewed) = (Some(now + FETCH_RETRY), false),
            Some(_) | None => {
                self.fetching.leases.remove(&chunk);
                self.credits = Credits::default();
            }
        }
    }

    pub(crate) fn retry_fetches(&mut self, now: Now) {
        if self.paused {
            return;
        }
        for (&chunk, lease) in &mut self.fetching.leases {
            if lease.retry_at.is_some_and(|at| at <= now) {
                lease.retry_at = None;
                self.actions.push_back(Action::FetchOrigin { chunk });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_stays_wrong_is_fetched_ever_more_seldom() {
        let waits: Vec<u128> = (1..=7).map(|times| spoilt_retry(times).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(spoilt_retry(u32::MAX), SPOILT_RETRY_MAX);
    }
}
