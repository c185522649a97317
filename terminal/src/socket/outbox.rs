//! What waits to be sent to the server, and what becomes of it when it waits for long.
//!
//! | message | while it waits | when the connection is lost |
//! |---|---|---|
//! | credits, progress, missing, holdings | the latest per swarm replaces the one before | stays, and is sent next time |
//! | receipts | the latest per (delivery, source, segment): they are cumulative | sent again unless the server has surely taken them |
//! | notices | the latest per chunk, [`NOTICES_MAX`] in all, the oldest give way | sent again unless the server has surely taken them |
//! | keys wanted | each swarm once | asked for again by whoever waits |
//! | signals | [`SIGNALS_MAX`], the oldest give way | stays; an attempt that is over is ignored by its session |
//! | complete editions held | the latest replaces the one before | stays, and is sent next time |
//! | answers to audits | [`AUDITS_MAX`], the oldest give way | dropped: the question has gone with it |
//! | suspicions | [`SUSPECTS_MAX`], the oldest give way | dropped: a terminal that was cut off itself has nothing to say about others |
//!
//! The server reads in order. A clock request that is sent behind receipts and notices and is answered therefore proves that they were read: only then
//! are they forgotten. If the server says before that answer that it could not do something at the moment, it may be about them: they are sent again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::audit::{AuditAnswer, AuditQuestion};
use protocol::receipt::Receipt;
use protocol::ws::{ChunkNotice, ClientMessage, LIST_MAX, Progress, RECEIPTS_MAX, Signal, SuspectReason};
use protocol::{DeliveryId, SwarmId, TerminalId};
use tokio::sync::Notify;

/// An hour without a connection at one notice for four chunks a second. A notice that gives way costs a lease that expires.
const NOTICES_MAX: usize = 16_384;
/// Four attempts for each of the largest plan's links.
const SIGNALS_MAX: usize = 256;
const SUSPECTS_MAX: usize = 64;
/// The server asks one question at a time.
const AUDITS_MAX: usize = 4;

type ReceiptKey = (DeliveryId, TerminalId, u32);

/// Receipts and notices at one stage of their way.
#[derive(Debug, Default)]
struct Kept {
    receipts: BTreeMap<ReceiptKey, Receipt>,
    notices: BTreeMap<(SwarmId, u32), ChunkNotice>,
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.receipts.is_empty() && self.notices.is_empty()
    }

    fn add_receipt(&mut self, receipt: Receipt) {
        let key = (receipt.body.delivery_id, receipt.body.source, receipt.body.segment);
        let newer = self.receipts.get(&key).is_none_or(|kept| kept.body.sequence <= receipt.body.sequence);
        if newer {
            self.receipts.insert(key, receipt);
        }
    }

    /// A notice of a chunk's copies says when it was received as well, so it takes the place of the first one; never the other way round.
    fn add_notice(&mut self, swarm: SwarmId, notice: ChunkNotice) {
        let kept = self.notices.entry((swarm, notice.chunk)).or_insert(notice);
        if notice.copies_done_at.is_some() || kept.copies_done_at.is_none() {
            *kept = notice;
        }
        if self.notices.len() > NOTICES_MAX {
            self.notices.pop_first();
        }
    }

    /// Takes over what `older` holds and this does not have newer.
    fn merge(&mut self, older: Self) {
        for receipt in older.receipts.into_values() {
            self.add_receipt(receipt);
        }
        for ((swarm, _), notice) in older.notices {
            let newer = self.notices.get(&(swarm, notice.chunk)).is_some_and(|kept| kept.copies_done_at.is_some());
            if !newer {
                self.add_notice(swarm, notice);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    sync: bool,
    keys: BTreeSet<SwarmId>,
    audited: VecDeque<(AuditQuestion, AuditAnswer)>,
    signals: VecDeque<(TerminalId, Signal)>,
    credits: BTreeMap<SwarmId, u32>,
    missing: BTreeMap<SwarmId, Vec<u32>>,
    holdings: BTreeMap<SwarmId, VecDeque<ClientMessage>>,
    suspects: VecDeque<(SwarmId, TerminalId, SuspectReason)>,
    progress: BTreeMap<SwarmId, Progress>,
    /// Which complete editions are held: the whole list, not sent yet.
    holds: VecDeque<ClientMessage>,
    waiting: Kept,
    /// Sent since the last barrier went out.
    sent: Kept,
    /// Sent before the barrier that the server has not answered, and its `sent_at`.
    behind_barrier: Option<(u64, Kept)>,
    /// The server could not take it for the moment.
    kept_back: Kept,
}

/// The queue to the server. Clones share it; adding never waits.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    state: Arc<Mutex<State>>,
    added: Arc<Notify>,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.added.notify_one();
    }

    pub fn credits(&self, swarm: SwarmId, open: u32) {
        self.add(|state| _ = state.credits.insert(swarm, open));
    }

    pub fn progress(&self, swarm: SwarmId, progress: Progress) {
        self.add(|state| _ = state.progress.insert(swarm, progress));
    }

    pub fn missing(&self, swarm: SwarmId, chunks: Vec<u32>) {
        self.add(|state| _ = state.missing.insert(swarm, chunks));
    }

    /// The whole answer to a question for holdings.
    pub fn holdings(&self, swarm: SwarmId, messages: Vec<ClientMessage>) {
        self.add(|state| _ = state.holdings.insert(swarm, messages.into()));
    }

    /// The whole list of complete editions that are held.
    pub fn holds(&self, messages: Vec<ClientMessage>) {
        self.add(|state| state.holds = messages.into());
    }

    pub fn notices(&self, swarm: SwarmId, notices: &[ChunkNotice]) {
        self.add(|state| notices.iter().for_each(|notice| state.waiting.add_notice(swarm, *notice)));
    }

    pub fn receipts(&self, receipts: Vec<Receipt>) {
        self.add(|state| receipts.into_iter().for_each(|receipt| state.waiting.add_receipt(receipt)));
    }

    pub fn signal(&self, to: TerminalId, signal: Signal) {
        self.add(|state| push_bounded(&mut state.signals, (to, signal), SIGNALS_MAX));
    }

    pub fn suspect(&self, swarm: SwarmId, terminal: TerminalId, reason: SuspectReason) {
        self.add(|state| push_bounded(&mut state.suspects, (swarm, terminal, reason), SUSPECTS_MAX));
    }

    /// Asks for the key of a sealed swarm.
    pub fn want_key(&self, swarm: SwarmId) {
        self.add(|state| _ = state.keys.insert(swarm));
    }

    /// Answers an audit.
    pub fn audited(&self, question: AuditQuestion, answer: AuditAnswer) {
        self.add(|state| push_bounded(&mut state.audited, (question, answer), AUDITS_MAX));
    }

    /// Asks for all plans again.
    pub fn sync(&self) {
        self.add(|state| state.sync = true);
    }

    /// Drops what is of no use once a swarm is over. Receipts and notices stay.
    pub fn forget(&self, swarm: SwarmId) {
        let mut state = self.state();
        state.credits.remove(&swarm);
        state.missing.remove(&swarm);
        state.holdings.remove(&swarm);
        state.progress.remove(&swarm);
    }

    /// Whether receipts or notices are here that the server may not have read.
    #[must_use]
    pub fn holds_what_must_arrive(&self) -> bool {
        let state = self.state();
        !state.waiting.is_empty() || !state.sent.is_empty() || state.behind_barrier.is_some() || !state.kept_back.is_empty()
    }

    /// Waits until something was added since the last call.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// The next message, most urgent first.
    pub(crate) fn take(&self) -> Option<ClientMessage> {
        self.state().take()
    }

    /// If receipts or notices have been sent and no barrier is out, notes that one goes out now as the clock request `sent_at`.
    pub(super) fn begin_barrier(&self, sent_at: u64) -> bool {
        let mut state = self.state();
        if state.behind_barrier.is_some() || state.sent.is_empty() {
            return false;
        }
        let sent = std::mem::take(&mut state.sent);
        state.behind_barrier = Some((sent_at, sent));
        true
    }

    /// The server answered the clock request `sent_at`: it has read everything before it. Returns whether that was about anything.
    pub(super) fn clock_answered(&self, sent_at: u64) -> bool {
        let mut state = self.state();
        let answered = state.behind_barrier.as_ref().is_some_and(|(barrier, _)| *barrier <= sent_at);
        if answered {
            state.behind_barrier = None;
        }
        answered
    }

    /// The server could not do for the moment what it was told, perhaps what was sent since the last barrier that it answered. That is kept for
    /// [`Outbox::send_again`]. Returns whether there is anything.
    pub(super) fn keep_back(&self) -> bool {
        let mut state = self.state();
        let (sent, behind) = (std::mem::take(&mut state.sent), state.behind_barrier.take());
        state.kept_back.merge(sent);
        if let Some((_, behind)) = behind {
            state.kept_back.merge(behind);
        }
        !state.kept_back.is_empty()
    }

    /// What was kept back goes out again.
    pub(super) fn send_again(&self) {
        let mut state = self.state();
        let kept_back = std::mem::take(&mut state.kept_back);
        state.waiting.merge(kept_back);
        self.added.notify_one();
    }

    /// What the server may not have read is to be sent again.
    pub(super) fn connection_lost(&self) {
        let mut state = self.state();
        state.suspects.clear();
        // A question belongs to the connection that it came by.
        state.audited.clear();
        let kept_back = std::mem::take(&mut state.kept_back);
        state.waiting.merge(kept_back);
        let (sent, behind) = (std::mem::take(&mut state.sent), state.behind_barrier.take());
        state.waiting.merge(sent);
        if let Some((_, behind)) = behind {
            state.waiting.merge(behind);
        }
        if !state.waiting.is_empty() {
            self.added.notify_one();
        }
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(item);
}

impl State {
    fn take(&mut self) -> Option<ClientMessage> {
        if std::mem::take(&mut self.sync) {
            return Some(ClientMessage::Sync);
        }
        if let Some(swarm_id) = self.keys.pop_first() {
            return Some(ClientMessage::WantKey { swarm_id });
        }
        if let Some((question, answer)) = self.audited.pop_front() {
            return Some(ClientMessage::Audited { question, answer });
        }
        if let Some((swarm_id, open)) = self.credits.pop_first() {
            return Some(ClientMessage::Credits { swarm_id, open });
        }
        if let Some((to, signal)) = self.signals.pop_front() {
            return Some(ClientMessage::Signal { to, signal });
        }
        if let Some(message) = self.take_notices() {
            return Some(message);
        }
        if let Some((swarm_id, mut chunks)) = self.missing.pop_first() {
            chunks.truncate(LIST_MAX);
            return Some(ClientMessage::Missing { swarm_id, chunks });
        }
        if let Some((swarm_id, terminal_id, reason)) = self.suspects.pop_front() {
            return Some(ClientMessage::Suspect { swarm_id, terminal_id, reason });
        }
        if let Some(message) = self.take_receipts() {
            return Some(message);
        }
        if let Some(mut first) = self.holdings.first_entry() {
            let message = first.get_mut().pop_front();
            if first.get().is_empty() {
                first.remove();
            }
            return message;
        }
        if let Some(message) = self.holds.pop_front() {
            return Some(message);
        }
        self.progress.pop_first().map(|(swarm_id, progress)| ClientMessage::Progress { swarm_id, progress })
    }

    /// Notices of one swarm, as many as fit one message.
    fn take_notices(&mut self) -> Option<ClientMessage> {
        let &(swarm_id, _) = self.waiting.notices.keys().next()?;
        let mut notices = Vec::new();
        while notices.len() < LIST_MAX
            && let Some(first) = self.waiting.notices.first_entry().filter(|first| first.key().0 == swarm_id)
        {
            let notice = first.remove();
            self.sent.add_notice(swarm_id, notice);
            notices.push(notice);
        }
        Some(ClientMessage::Notices { swarm_id, notices })
    }

    fn take_receipts(&mut self) -> Option<ClientMessage> {
        let mut receipts = Vec::new();
        while receipts.len() < RECEIPTS_MAX
            && let Some((_, receipt)) = self.waiting.receipts.pop_first()
        {
            receipts.push(STANDARD.encode(receipt.pack()));
            self.sent.add_receipt(receipt);
        }
        (!receipts.is_empty()).then_some(ClientMessage::Receipts { receipts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::receipt::ReceiptBody;
    use protocol::{TerminalKey, TimestampMs};

    const SWARM: SwarmId = SwarmId::from_bytes([1; 16]);

    fn receipt(segment: u32, sequence: u32) -> Receipt {
        let body = ReceiptBody {
            delivery_id: DeliveryId::from_bytes([1; 16]),
            source: TerminalId::from_bytes([2; 16]),
            receiver: TerminalId::from_bytes([3; 16]),
            segment,
            sequence,
            at: TimestampMs(1),
            bitmap: Box::new([0; 512]),
        };
        body.sign(&TerminalKey::from_secret(&[1; 32]))
    }

    fn notice(chunk: u32, done: bool) -> ChunkNotice {
        ChunkNotice { chunk, received_at: TimestampMs(5), copies_done_at: done.then_some(TimestampMs(9)) }
    }

    fn drain(outbox: &Outbox) -> Vec<ClientMessage> {
        std::iter::from_fn(|| outbox.take()).collect()
    }

    #[test]
    fn the_latest_credits_progress_and_receipt_are_sent_and_no_older_ones() {
        let outbox = Outbox::default();
        for open in 1..=3 {
            outbox.credits(SWARM, open);
            outbox.progress(SWARM, Progress { verified: protocol::Bytes(u64::from(open)), ..Progress::default() });
            outbox.receipts(vec![receipt(0, open)]);
        }
        outbox.receipts(vec![receipt(0, 2)]);
        let expected = STANDARD.encode(receipt(0, 3).pack());
        let messages = drain(&outbox);
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[0], ClientMessage::Credits { swarm_id: SWARM, open: 3 });
        assert_eq!(messages[1], ClientMessage::Receipts { receipts: vec![expected] });
        assert!(matches!(messages[2], ClientMessage::Progress { progress, .. } if progress.verified.0 == 3));
    }

    #[test]
    fn receipts_and_notices_are_sent_again_unless_a_later_clock_request_was_answered() {
        let outbox = Outbox::default();
        outbox.receipts(vec![receipt(0, 1)]);
        outbox.notices(SWARM, &[notice(7, false)]);
        assert_eq!(drain(&outbox).len(), 2);
        outbox.connection_lost();
        assert_eq!(drain(&outbox).len(), 2, "nothing proved that they arrived");
        assert!(outbox.begin_barrier(100));
        assert!(!outbox.begin_barrier(101), "one barrier at a time");
        outbox.clock_answered(99);
        assert!(outbox.holds_what_must_arrive(), "an answer to an earlier request proves nothing");
        outbox.receipts(vec![receipt(1, 1)]);
        drain(&outbox);
        outbox.clock_answered(100);
        outbox.connection_lost();
        assert_eq!(drain(&outbox), [ClientMessage::Receipts { receipts: vec![STANDARD.encode(receipt(1, 1).pack())] }]);
    }

    #[test]
    fn what_the_server_could_not_take_is_owed_until_it_is_sent_again_and_read() {
        let outbox = Outbox::default();
        assert!(!outbox.keep_back(), "nothing was sent");
        outbox.receipts(vec![receipt(0, 1)]);
        outbox.notices(SWARM, &[notice(7, false)]);
        drain(&outbox);
        assert!(outbox.begin_barrier(100));
        assert!(outbox.keep_back());
        outbox.clock_answered(100);
        assert!(outbox.holds_what_must_arrive(), "it was read, and not taken");
        outbox.receipts(vec![receipt(0, 2)]);
        outbox.send_again();
        assert_eq!(
            drain(&outbox),
            [
                ClientMessage::Notices { swarm_id: SWARM, notices: vec![notice(7, false)] },
                ClientMessage::Receipts { receipts: vec![STANDARD.encode(receipt(0, 2).pack())] }
            ],
            "the newer receipt says all that the older one said"
        );
        assert!(outbox.begin_barrier(200));
        outbox.clock_answered(200);
        assert!(!outbox.holds_what_must_arrive());
    }

    #[test]
    fn what_is_sent_again_never_overtakes_what_is_newer() {
        let outbox = Outbox::default();
        outbox.receipts(vec![receipt(0, 1)]);
        outbox.notices(SWARM, &[notice(7, false)]);
        drain(&outbox);
        outbox.receipts(vec![receipt(0, 2)]);
        outbox.notices(SWARM, &[notice(7, true)]);
        outbox.connection_lost();
        assert_eq!(
            drain(&outbox),
            [
                ClientMessage::Notices { swarm_id: SWARM, notices: vec![notice(7, true)] },
                ClientMessage::Receipts { receipts: vec![STANDARD.encode(receipt(0, 2).pack())] }
            ]
        );
    }

    #[test]
    fn long_lists_are_cut_to_messages_and_long_queues_to_their_bounds() {
        let outbox = Outbox::default();
        let many: Vec<ChunkNotice> = (0..u32::try_from(NOTICES_MAX).unwrap() + 100).map(|chunk| notice(chunk, false)).collect();
        outbox.notices(SWARM, &many);
        outbox.receipts((0..100).map(|segment| receipt(segment, 1)).collect());
        for session in 0..1000 {
            outbox.signal(TerminalId::from_bytes([1; 16]), Signal::Decline { session });
        }
        let messages = drain(&outbox);
        let lengths = |pick: fn(&ClientMessage) -> Option<usize>| messages.iter().filter_map(pick).collect::<Vec<_>>();
        let notices = lengths(|message| if let ClientMessage::Notices { notices, .. } = message { Some(notices.len()) } else { None });
        assert_eq!(notices.iter().sum::<usize>(), NOTICES_MAX);
        assert!(notices.iter().all(|len| *len <= LIST_MAX));
        assert_eq!(
            lengths(|message| if let ClientMessage::Receipts { receipts } = message { Some(receipts.len()) } else { None }),
            [48, 48, 4]
        );
        let signals: Vec<u64> =
            messages
                .iter()
                .filter_map(|message| {
                    if let ClientMessage::Signal { signal: Signal::Decline { session }, .. } = message { Some(*session) } else { None }
                })
                .collect();
        assert_eq!((signals.len(), signals[0]), (SIGNALS_MAX, 1000 - SIGNALS_MAX as u64), "the oldest gave way");
    }

    #[test]
    fn a_swarm_that_is_over_leaves_only_what_is_owed() {
        let outbox = Outbox::default();
        outbox.credits(SWARM, 1);
        outbox.missing(SWARM, vec![1]);
        outbox.receipts(vec![receipt(0, 1)]);
        outbox.forget(SWARM);
        assert!(matches!(drain(&outbox)[..], [ClientMessage::Receipts { .. }]));
    }
}
