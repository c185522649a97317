//! What can happen, and to whom.

use protocol::frame::Frame;
use swarm::Now;

use crate::server::{Paid, Push, Says};

/// A direction of a link that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Channel {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) generation: u64,
}

/// What became of a fetch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fetched {
    Chunk,
    Failed { retry_later: bool },
}

/// What happens. `life` is that of the terminal that it is meant for: it concerns no later one.
#[derive(Debug)]
pub(super) enum Event {
    SwitchedOn {
        terminal: usize,
    },
    Connects {
        terminal: usize,
        life: u64,
    },
    Detaches {
        terminal: usize,
        session: u64,
    },
    Refreshes {
        terminal: usize,
        session: u64,
    },
    Says {
        terminal: usize,
        life: u64,
        session: u64,
        says: Says,
    },
    Pushed {
        terminal: usize,
        session: u64,
        position: u64,
        push: Push,
    },
    LinkTried {
        a: usize,
        b: usize,
    },
    LinkOpens {
        a: usize,
        b: usize,
    },
    LinkLost {
        a: usize,
        b: usize,
        generation: u64,
    },
    /// A message has reached the receiver's line; `None` cannot be read.
    Arrives {
        channel: Channel,
        frame: Option<Box<Frame>>,
        bytes: u64,
    },
    Delivered {
        channel: Channel,
        frame: Option<Box<Frame>>,
    },
    Stored {
        terminal: usize,
        life: u64,
        chunk: u32,
    },
    FetchAsked {
        terminal: usize,
        life: u64,
        chunk: u32,
    },
    OriginSends {
        terminal: usize,
        life: u64,
        chunk: u32,
        paid: Paid,
    },
    OriginSent {
        terminal: usize,
        life: u64,
        chunk: u32,
        incarnation: u64,
    },
    Fetched {
        terminal: usize,
        life: u64,
        chunk: u32,
        fetched: Fetched,
    },
    Wakes {
        terminal: usize,
        life: u64,
        at: Now,
    },
    WavePlanned {
        wave: u32,
    },
    WaveOpens {
        wave: u32,
    },
    Strikes {
        fault: usize,
    },
    Ends {
        fault: usize,
    },
}

impl Event {
    /// The kind, and two numbers that tell it from others of its kind.
    pub(super) fn marks(&self) -> (u64, u64, u64) {
        let pair = |a: &usize, b: &usize| (*a as u64, *b as u64);
        let (kind, (first, second)) = match self {
            Self::SwitchedOn { terminal } => (1, pair(terminal, &0)),
            Self::Connects { terminal, life } => (2, (*terminal as u64, *life)),
            Self::Detaches { terminal, session } => (3, (*terminal as u64, *session)),
            Self::Refreshes { terminal, session } => (4, (*terminal as u64, *session)),
            Self::Says { terminal, session, .. } => (5, (*terminal as u64, *session)),
            Self::Pushed { terminal, position, .. } => (6, (*terminal as u64, *position)),
            Self::LinkTried { a, b } => (7, pair(a, b)),
            Self::LinkOpens { a, b } => (8, pair(a, b)),
            Self::LinkLost { a, b, .. } => (9, pair(a, b)),
            Self::Arrives { channel, bytes, .. } => (10, (channel.from as u64 ^ (channel.to as u64) << 16, *bytes)),
            Self::Delivered { channel, .. } => (11, (channel.from as u64 ^ (channel.to as u64) << 16, channel.generation)),
            Self::Stored { terminal, chunk, .. } => (12, (*terminal as u64, u64::from(*chunk))),
            Self::FetchAsked { terminal, chunk, .. } => (13, (*terminal as u64, u64::from(*chunk))),
            Self::OriginSends { terminal, chunk, .. } => (14, (*terminal as u64, u64::from(*chunk))),
            Self::OriginSent { terminal, chunk, .. } => (15, (*terminal as u64, u64::from(*chunk))),
            Self::Fetched { terminal, chunk, .. } => (16, (*terminal as u64, u64::from(*chunk))),
            Self::Wakes { terminal, life, .. } => (17, (*terminal as u64, *life)),
            Self::WavePlanned { wave } => (18, (u64::from(*wave), 0)),
            Self::WaveOpens { wave } => (19, (u64::from(*wave), 0)),
            Self::Strikes { fault } => (20, pair(fault, &0)),
            Self::Ends { fault } => (21, pair(fault, &0)),
        };
        (kind, first, second)
    }
}
