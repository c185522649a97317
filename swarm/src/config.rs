//! Constants of the swarm, each with the reason for its size.

use std::time::Duration;

use protocol::frame::{PAYLOAD_MAX, PAYLOAD_MIN};
use protocol::{BitsPerSecond, TerminalId, TerminalKey};

/// What a receiver may leave unacknowledged on one link: the most that an honest relay can lose to a receiver that denies.
pub const WINDOW_BYTES: u64 = 256 << 10;

/// A used link is pinged when it was silent this long, so that a dead peer is noticed within three of these.
pub(crate) const PING_EVERY: Duration = Duration::from_millis(250);
/// A link without a byte for this long is suspect: its chunks are pulled elsewhere.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_millis(600);
/// What a peer had sent when the server lost sight of it may be on its way for this long: it says nothing about whether the peer is there.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(300);
/// A receiver that acknowledges nothing for this long while its window is full is reported.
pub(crate) const UNACKNOWLEDGED_AFTER: Duration = Duration::from_secs(10);
/// A receiver that leaves its window shut for this long is not waited for: new chunks are asked for while its copies wait.
pub(crate) const STALLED_PEER_AFTER: Duration = Duration::from_secs(1);
/// Copies that wait for a member that is silent or leaves its window shut: what is beyond it pulls when it is back.
pub(crate) const KEPT_WHILE_SILENT: u64 = 16 * WINDOW_BYTES;
/// What a receiver may declare to have had already, beyond as much as it signs for: duplicates free the window and pay nothing. Honest ones come in
/// bursts, when leases were given anew after a lost connection.
pub(crate) const DUPLICATE_BYTES: u64 = 8 << 20;
/// Chunks of one member that this terminal copies on into groups below at a time: as many of the smallest kind as one window holds. An honest member hardly
/// ever has so many; what is beyond them the group below pulls. One that names destinations in every frame gets no more out of this terminal's uplink.
pub(crate) const HANDED_MAX: usize = 16;
/// A chunk whose frames stop coming counts as on its way for this long.
pub(crate) const PARTIAL_FOR: Duration = Duration::from_secs(2);
/// How long the member in line for a chunk may get nothing new before the next one pulls it for the group in its place.
pub(crate) const TURN: Duration = Duration::from_millis(500);
/// How long a pushed chunk may take after it was first announced before it is pulled: six times the half second of backlog that relays aim at. After three
/// times, more came twice (simulated, 16 terminals: 7 % of one edition instead of 5 %). What a relay that is gone owed is pulled at once.
pub(crate) const LATE_MIN: Duration = Duration::from_secs(3);
/// An unanswered pull is tried elsewhere after this long at least.
pub(crate) const PULL_RETRY_MIN: Duration = Duration::from_secs(2);
/// And at most.
pub(crate) const PULL_RETRY_MAX: Duration = Duration::from_secs(4);
/// Nothing new for this long, or a chunk that later ones have passed this long ago: it may be lost, so the server is asked.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(2);
/// How often unsatisfied credits and missing chunks are told again: a lost server state is met by repetition.
pub(crate) const REPEAT_EVERY: Duration = Duration::from_millis(500);
/// How often notices go to the server.
pub(crate) const REPORT_EVERY: Duration = Duration::from_millis(250);
/// How often receipts go there: each is a row of its database, and the sources hold them too.
pub(crate) const RECEIPTS_EVERY: Duration = Duration::from_secs(1);
/// And more seldom where there are many: with fifteen sources they would be near 1 % of an uplink of 10 Mbit/s, and most of what the server's database does.
pub(crate) const RECEIPT_EVERY: Duration = Duration::from_millis(200);
/// But never more seldom than this.
pub(crate) const RECEIPTS_AT_LEAST_EVERY: Duration = Duration::from_secs(3);
/// Chunks from the origin that are reported at once: it sends 128 at most to who has not signed for them, and more come in a second on a
/// fast line.
pub(crate) const REPORT_ORIGIN_CHUNKS: u32 = 32;
/// How long an acknowledgement may wait for company: one signature then covers several chunks.
pub(crate) const RECEIPT_DELAY: Duration = Duration::from_millis(5);
/// Verified but unacknowledged bytes of one source that end the wait: below half a window the sender never stops.
pub(crate) const RECEIPT_BYTES: u64 = WINDOW_BYTES / 4;
/// What this terminal brought into the group, and copies on, is announced within this time, with everything else that is new.
pub(crate) const DELTA_DELAY: Duration = Duration::from_millis(100);
/// And what was copied to it within this time: nobody waits for that. Each announcement goes to everybody and is acknowledged: ten a second to fifteen
/// members took 2 % of an uplink of 10 Mbit/s.
pub(crate) const DELTA_DELAY_OF_COPIES: Duration = Duration::from_millis(500);
/// And in the end game within this time: a relay that hears of it late sends it twice.
pub(crate) const DELTA_DELAY_AT_THE_END: Duration = Duration::from_millis(20);
/// A fetch that failed for a passing reason is tried again after this long.
pub(crate) const FETCH_RETRY: Duration = Duration::from_millis(500);
/// And one that brought a wrong chunk after this long at most: half of the lease, which ends by itself if nothing helps.
pub(crate) const SPOILT_RETRY_MAX: Duration = Duration::from_secs(8);
/// Relays hold back new chunks when their copies would take longer than this.
pub(crate) const BACKLOG: Duration = Duration::from_millis(500);
/// The backlog in bytes where the uplink's rate is not known.
pub(crate) const BACKLOG_BYTES_UNKNOWN: u64 = 8 << 20;
/// The most leases that one terminal asks for at a time.
pub(crate) const CREDITS_MAX: u64 = 32;
/// Chunks asked of one peer at a time: about one window of average chunks.
pub(crate) const PULLS_PER_PEER: usize = 6;
/// Pulls that one peer may have queued here. A peer asks for six at a time, also when it asks again for what did not come in time, so an honest one never
/// has so many; what is beyond is ignored.
pub(crate) const PULL_QUEUE_MAX: usize = 64;
/// Missing chunks looked at per tick, so that a tick takes microseconds even for a million chunks.
pub(crate) const SCAN_MAX: usize = 4096;
/// Missing chunks named to the server at a time.
pub(crate) const MISSING_MAX: usize = 64;

/// A group below keeps up as long as its contact lacks no more chunks than this of what is here: about two seconds of a line of 10 Mbit/s in a group of sixteen.
pub(crate) const KEEPS_UP: u32 = 16;

/// The most chunks that may be missing in the end game: what some relays still owe, looked at one by one.
pub(crate) const END_GAME_CHUNKS: u32 = 64;
/// Chunks asked of a helper at a time in the end game: the next one is on its way while one is being sent, and the choice is made late.
pub(crate) const TAKE_OVER_PULLS: usize = 2;
/// A copy takes about so long from the relay's queue to the news that it has come: the line's own queue, the chunk, and the announcement.
pub(crate) const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// What should have been copied here this long ago, by the uplink that its relay states, is not waited for.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_secs(2);
/// What is expected within this time anyway is left to its relay: a request, and the relay's word to stop, are as long on their way.
pub(crate) const TAKE_OVER_WORTH: Duration = Duration::from_millis(200);

/// Who this terminal is, and what it may use.
#[derive(Debug, Clone)]
pub struct Config {
    pub me: TerminalId,
    pub key: TerminalKey,
    /// The uplink; 0 if it is not known or not limited.
    pub up: BitsPerSecond,
}

impl Config {
    /// Payload bytes per frame: at most 30 ms of the uplink, so that a ping never waits long behind data and no line's queue overflows.
    pub(crate) fn frame_bytes(&self) -> u32 {
        let max = u64::try_from(PAYLOAD_MAX).unwrap_or(u64::MAX);
        let min = u64::try_from(PAYLOAD_MIN).unwrap_or(0);
        let bytes = if self.up.0 == 0 { max } else { (self.up.0 / 8 * 30 / 1_000).clamp(min, max) };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Bytes of copies that may wait to be sent before new chunks are asked for.
    pub(crate) fn backlog_bytes(&self) -> u64 {
        if self.up.0 == 0 { BACKLOG_BYTES_UNKNOWN } else { self.up.0 / 8 * u64::try_from(BACKLOG.as_millis()).unwrap_or(0) / 1000 }
    }
}
