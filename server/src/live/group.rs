//! The lease table of a group: who is given which chunk next, decided inside Redis in one step (`lua/group.lua` holds the rules and the layout).
//!
//! Each call answers with a [`Table`]: `Ready` with what was decided, `Rebuilding` while the members are being asked what they hold after a loss, or `Lost`:
//! then the caller rebuilds it with [`Live::rebuild_group`] and the terminal asks again.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::bitmap::SEGMENT_BYTES;
use protocol::giving::GivingOrder;
use protocol::ws::{ChunkNotice, GrantKind};
use protocol::{Bytes, GroupId, SwarmId, TerminalId, TimestampMs};
pub use rules::lease_table::WhyReturned;
use time::OffsetDateTime;

use super::passing::passed;
use super::{Arguments, Live, LiveError};

/// How long members are asked what they hold before the table is built from those who answered (a connected one may take longer).
const ASK_FOR: Duration = Duration::from_secs(1);

/// Everything that a group's table is made from; all of it is in Postgres and in the manifest.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    pub group: GroupId,
    pub swarm: SwarmId,
    /// Whether the origin feeds the group: only then are first copies given.
    pub root: bool,
    pub opens_at: OffsetDateTime,
    /// When the table may be forgotten, whatever happens.
    pub keep_until: OffsetDateTime,
    pub chunk_lengths: Vec<u32>,
    /// Every planned member with what it is expected to need per byte it has to copy, in nanoseconds, until that is measured.
    pub members: Vec<(TerminalId, u64)>,
}

/// How much of the origin a group, and each member of it, may have on its way.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes of the group that may be leased and not received yet: what the origin sends in a moment. 0 is no limit.
    pub in_flight_max: Bytes,
    /// The most chunks that a terminal may fetch without having signed for them.
    pub unsigned_max: u32,
    /// What the budget has for direct copies.
    pub direct: Bytes,
}

/// Who speaks to which group.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub group: GroupId,
    pub terminal: TerminalId,
    pub limits: Limits,
}

/// What a call to a group's table found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table<T> {
    Ready(T),
    /// The members are being asked what they hold; nothing is given meanwhile.
    Rebuilding,
    /// Redis has no such table.
    Lost,
    /// The terminal is no member of the group.
    Stranger,
}

impl GroupAnswer<Vec<String>> {
    fn read<T>(self, read: impl FnOnce(&[String]) -> Result<T, LiveError>) -> Result<GroupAnswer<T>, LiveError> {
        Ok(GroupAnswer { returned: self.returned, granted: self.granted, outcome: read(&self.outcome)? })
    }
}

impl<T> Table<T> {
    pub fn try_map<U>(self, map: impl FnOnce(T) -> Result<U, LiveError>) -> Result<Table<U>, LiveError> {
        Ok(match self {
            Self::Ready(value) => Table::Ready(map(value)?),
            Self::Rebuilding => Table::Rebuilding,
            Self::Lost => Table::Lost,
            Self::Stranger => Table::Stranger,
        })
    }
}

/// What a call changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupAnswer<T> {
    /// Leases that ended without the chunk, by chunk.
    pub returned: Vec<Returned>,
    /// Chunks given by this call, to whomever; the terminals have been told.
    pub granted: Vec<Grant>,
    pub outcome: T,
}

/// A lease that ended without its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Returned {
    pub chunk: u32,
    pub terminal: TerminalId,
    pub why: WhyReturned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub terminal: TerminalId,
    pub chunk: u32,
    pub kind: GrantKind,
}

/// Which part of the origin's budget a chunk counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// The swarm's first copy.
    First,
    /// It was sent before.
    Repair,
    /// It was sent before, and goes to every member of a group.
    Direct,
}

/// Whether a terminal may fetch a chunk from the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchRight {
    None,
    /// It has fetched too much that it is not known to have signed for: these chunks.
    Unsigned(Vec<u32>),
    Granted {
        budget: Budget,
        /// What [`Live::unfetch`] needs if the chunk is not sent after all.
        marks: String,
    },
}

/// What a terminal holds after a loss: one segment, and with the last one its leases.
#[derive(Debug, Clone)]
pub struct Holdings<'a> {
    pub segment: u32,
    pub bitmap: &'a [u8; SEGMENT_BYTES],
    pub last: bool,
    pub leases: &'a [u32],
}

/// How many bytes the origin may still send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affordable {
    /// Of chunks that it has sent before.
    pub again: Bytes,
    /// Of chunks that it has not.
    pub first: Bytes,
    /// What may be sent again in all, from the beginning on, of what somebody live has: slowness must not eat up what is there for losses.
    pub doubled: Bytes,
}

/// What is asked for because nobody offers it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// With each chunk comes whether the receipts of a live terminal that the asking one can get it from contain it.
    pub chunks: &'a BTreeMap<u32, bool>,
    /// Whether a member of a group that the origin feeds is connected.
    pub feeders_connected: bool,
}

/// The outcome of asking for chunks that nobody offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// A member has it or will be given it: pull or wait.
    pub elsewhere: Vec<u32>,
    /// The origin may not send it any more.
    pub unaffordable: Vec<u32>,
}

type Reply = (String, Vec<String>, Vec<String>, Vec<String>);

impl Live {
    /// Makes the table of a group whose members cannot hold anything yet. One that is there already is left alone.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn create_group(&self, spec: &GroupSpec, now: OffsetDateTime) -> Result<(), LiveError> {
        self.make_group(spec, Duration::ZERO, &[], now).await
    }

    /// Begins to rebuild a lost table: asks every member what it holds. `receipted` is a bitmap over the chunks, least significant bit first within a
    /// byte, of what the members' receipts contain: only that counts as sent before. Harmless if the table is there, or somebody has begun already.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn rebuild_group(&self, spec: &GroupSpec, receipted: &[u8], now: OffsetDateTime) -> Result<(), LiveError> {
        self.make_group(spec, ASK_FOR, receipted, now).await
    }

    async fn make_group(&self, spec: &GroupSpec, ask_for: Duration, receipted: &[u8], now: OffsetDateTime) -> Result<(), LiveError> {
        let order = if spec.root { GivingOrder::of(spec.chunk_lengths.iter().copied()) } else { GivingOrder::default() };
        if self.try_make_group(spec, &order, &[], ask_for, receipted, now).await? {
            return Ok(());
        }
        let lengths: Vec<u8> = spec.chunk_lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        if self.try_make_group(spec, &order, &lengths, ask_for, receipted, now).await? {
            return Ok(());
        }
        Err(LiveError::Reply("a new group is without its chunk lengths".to_owned()))
    }

    /// `false` if Redis does not have the chunk lengths and was not told them.
    async fn try_make_group(
        &self,
        spec: &GroupSpec,
        order: &GivingOrder,
        lengths: &[u8],
        ask_for: Duration,
        receipted: &[u8],
        now: OffsetDateTime,
    ) -> Result<bool, LiveError> {
        let mut arguments = of_server(spec.group, NO_LIMITS)
            .add(spec.swarm)
            .add(spec.chunk_lengths.len())
            .add(u8::from(spec.root))
            .add(millis(spec.opens_at))
            .add(millis(spec.keep_until))
            .bytes(lengths)
            .add(ask_for.as_millis())
            .bytes(receipted)
            .add(mean(&spec.chunk_lengths))
            .add(spaced(order.first()))
            .add(spaced(order.last()));
        for (terminal, overhead) in &spec.members {
            arguments = arguments.add(terminal).add(overhead);
        }
        let (word, ..): Reply = self.run(&self.inner.scripts.create, now, &arguments).await?;
        match word.as_str() {
            "ready" | "rebuilding" | "exists" => Ok(true),
            "lengths" => Ok(false),
            _ => Err(LiveError::Reply(format!("a new group is {word:?}"))),
        }
    }

    /// The terminal has `open` credits. The outcome are the chunks that it is not known to have signed for, if they are so many that it was given
    /// nothing.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn credits(&self, from: Sender, open: u32, now: OffsetDateTime) -> Result<Table<GroupAnswer<Vec<u32>>>, LiveError> {
        let table = self.group_with(from.group, &self.inner.scripts.allocate, arguments(from).add(open), now).await?;
        table.try_map(|answer| answer.read(numbers))
    }

    /// The terminal is there, whatever credits it may have.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn join(&self, from: Sender, now: OffsetDateTime) -> Result<Table<GroupAnswer<()>>, LiveError> {
        self.group(from.group, &self.inner.scripts.allocate, arguments(from).add(""), now).await
    }

    /// Gives chunks to the credits that are open, as at the moment when a wave begins.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn allocate(&self, group: GroupId, limits: Limits, now: OffsetDateTime) -> Result<Table<GroupAnswer<()>>, LiveError> {
        self.group(group, &self.inner.scripts.allocate, of_server(group, limits).add(""), now).await
    }

    /// Records what became of chunks; the outcome are the overheads measured, in nanoseconds per byte. The caller has checked that the chunks exist.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn notices(
        &self,
        from: Sender,
        notices: &[ChunkNotice],
        now: OffsetDateTime,
    ) -> Result<Table<GroupAnswer<Vec<u64>>>, LiveError> {
        let mut call = arguments(from);
        for notice in notices {
            call = call.add(notice.chunk).add(notice.copies_done_at.map(|TimestampMs(at)| at.to_string()).unwrap_or_default());
        }
        let table = self.group_with(from.group, &self.inner.scripts.notices, call, now).await?;
        table.try_map(|answer| answer.read(numbers))
    }

    /// The terminal is gone: what it leases goes to others. With `bench` it was removed and is given nothing for that time. The outcome is whether it
    /// had been removed before, and its time is not over.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn leave(&self, from: Sender, bench: Duration, now: OffsetDateTime) -> Result<Table<GroupAnswer<bool>>, LiveError> {
        let call = arguments(from).add(bench.as_millis());
        // Whoever removes a terminal knows the reason, and says himself what became of its leases.
        let table = if bench.is_zero() {
            self.group_with(from.group, &self.inner.scripts.leave, call, now).await?
        } else {
            self.group_call(&self.inner.scripts.leave, call, now).await?
        };
        table.try_map(|answer| answer.read(|rest| Ok(!rest.is_empty())))
    }

    /// The terminal finds nobody who has these chunks.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn missing(
        &self,
        from: Sender,
        affordable: Affordable,
        wanted: Wanted<'_>,
        now: OffsetDateTime,
    ) -> Result<Table<GroupAnswer<Missing>>, LiveError> {
        let mut call = arguments(from)
            .add(affordable.again.0)
            .add(affordable.first.0)
            .add(affordable.doubled.0)
            .add(u8::from(wanted.feeders_connected));
        for (chunk, receipted) in wanted.chunks {
            call = call.add(chunk).add(u8::from(*receipted));
        }
        let table = self.group_with(from.group, &self.inner.scripts.missing, call, now).await?;
        table.try_map(|answer| answer.read(read_missing))
    }

    /// Whether the terminal may fetch the chunk now; renews its lease, counts the fetch and marks the chunk as sent.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn fetch(&self, from: Sender, chunk: u32, now: OffsetDateTime) -> Result<Table<FetchRight>, LiveError> {
        let table = self.group_with(from.group, &self.inner.scripts.fetch, arguments(from).add(chunk).add("fetch"), now).await?;
        table.try_map(|answer| match answer.outcome.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["none"] => Ok(FetchRight::None),
            ["unsigned", ..] => Ok(FetchRight::Unsigned(numbers(&answer.outcome[1..])?)),
            ["first", marks] => Ok(FetchRight::Granted { budget: Budget::First, marks: marks.to_owned() }),
            ["direct", marks] => Ok(FetchRight::Granted { budget: Budget::Direct, marks: marks.to_owned() }),
            ["again", marks] => Ok(FetchRight::Granted { budget: Budget::Repair, marks: marks.to_owned() }),
            _ => Err(LiveError::Reply(format!("a fetch is {:?}", answer.outcome))),
        })
    }

    /// The chunk was not sent after all.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn unfetch(&self, from: Sender, chunk: u32, marks: &str, now: OffsetDateTime) -> Result<(), LiveError> {
        self.group(from.group, &self.inner.scripts.fetch, arguments(from).add(chunk).add(format!("undo{marks}")), now).await.map(|_| ())
    }

    /// The chunk was not sent because the budget does not have it: its lease ends, so that it holds up no other chunk.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn unaffordable(&self, from: Sender, chunk: u32, marks: &str, now: OffsetDateTime) -> Result<(), LiveError> {
        self.group(from.group, &self.inner.scripts.fetch, arguments(from).add(chunk).add(format!("undo{marks}d")), now).await.map(|_| ())
    }

    /// The chunk is still on its way to the terminal: its lease lasts longer.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn renew_lease(&self, from: Sender, chunk: u32, now: OffsetDateTime) -> Result<(), LiveError> {
        self.group(from.group, &self.inner.scripts.fetch, arguments(from).add(chunk).add("renew"), now).await.map(|_| ())
    }

    /// The terminal has signed for these chunks, for whichever source. `fresh`: just now, so that it holds them.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn signed(
        &self,
        from: Sender,
        chunks: impl IntoIterator<Item = u32>,
        fresh: bool,
        now: OffsetDateTime,
    ) -> Result<(), LiveError> {
        let call = chunks.into_iter().fold(arguments(from).add(u8::from(fresh)), Arguments::add);
        self.group(from.group, &self.inner.scripts.signed, call, now).await.map(|_| ())
    }

    /// Takes what the terminal holds into the table, be it there or being rebuilt. The caller has checked that the chunks exist.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn holdings(&self, from: Sender, holdings: &Holdings<'_>, now: OffsetDateTime) -> Result<Table<GroupAnswer<()>>, LiveError> {
        let mut call = arguments(from).add(holdings.segment).bytes(holdings.bitmap).add(u8::from(holdings.last));
        for chunk in holdings.leases {
            call = call.add(chunk);
        }
        self.group(from.group, &self.inner.scripts.holdings, call, now).await
    }

    /// Forgets a group whose release is over.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn drop_group(&self, group: GroupId, members: &[TerminalId], now: OffsetDateTime) -> Result<(), LiveError> {
        let mut call = of_server(group, NO_LIMITS);
        for member in members {
            call = call.add(member);
        }
        self.group(group, &self.inner.scripts.drop_group, call, now).await.map(|_| ())
    }

    async fn group(
        &self,
        group: GroupId,
        script: &redis::Script,
        call: Arguments,
        now: OffsetDateTime,
    ) -> Result<Table<GroupAnswer<()>>, LiveError> {
        self.group_with(group, script, call, now).await?.try_map(|answer| answer.read(|_| Ok(())))
    }

    /// Runs a script of a group, and keeps what it took from one terminal for [`Live::passed_leases`].
    async fn group_with(
        &self,
        group: GroupId,
        script: &redis::Script,
        call: Arguments,
        now: OffsetDateTime,
    ) -> Result<Table<GroupAnswer<Vec<String>>>, LiveError> {
        let table = self.group_call(script, call, now).await?;
        if let Table::Ready(answer) = &table {
            self.inner.passed.keep(passed(group, &answer.returned, &answer.granted, now));
        }
        Ok(table)
    }

    async fn group_call(
        &self,
        script: &redis::Script,
        call: Arguments,
        now: OffsetDateTime,
    ) -> Result<Table<GroupAnswer<Vec<String>>>, LiveError> {
        let (word, returned, grants, rest): Reply = self.run(script, now, &call).await?;
        match word.as_str() {
            "ready" => {
                let granted = grants.chunks_exact(3).map(grant_of).collect::<Result<Vec<_>, _>>()?;
                metrics::counter!("spillway_leases_granted_total").increment(granted.len() as u64);
                let mut returned = returned.chunks_exact(3).map(returned_of).collect::<Result<Vec<_>, _>>()?;
                returned.sort_unstable();
                metrics::counter!("spillway_leases_returned_total").increment(returned.len() as u64);
                Ok(Table::Ready(GroupAnswer { returned, granted, outcome: rest }))
            }
            "rebuilding" => Ok(Table::Rebuilding),
            "lost" => Ok(Table::Lost),
            "stranger" => Ok(Table::Stranger),
            _ => Err(LiveError::Reply(format!("a group is {word:?}"))),
        }
    }
}

/// For calls that give nothing.
const NO_LIMITS: Limits = Limits { in_flight_max: Bytes(0), unsigned_max: u32::MAX, direct: Bytes(0) };

fn arguments(from: Sender) -> Arguments {
    limited(Arguments::default().add(from.group).add(from.terminal), from.limits)
}

fn of_server(group: GroupId, limits: Limits) -> Arguments {
    limited(Arguments::default().add(group).add(""), limits)
}

fn limited(arguments: Arguments, limits: Limits) -> Arguments {
    arguments.add(format_args!("{} {} {}", limits.in_flight_max.0, limits.unsigned_max, limits.direct.0))
}

/// Bytes of a chunk in the mean, rounded down.
fn mean(lengths: &[u32]) -> u64 {
    let sum: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
    sum.checked_div(u64::try_from(lengths.len()).unwrap_or(u64::MAX)).unwrap_or(0)
}

fn spaced(chunks: &[u32]) -> String {
    chunks.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn numbers<N: std::str::FromStr>(texts: &[String]) -> Result<Vec<N>, LiveError> {
    texts.iter().map(|text| number(text)).collect()
}

fn read_missing(refusals: &[String]) -> Result<Missing, LiveError> {
    let mut missing = Missing::default();
    for refusal in refusals.chunks_exact(2) {
        let chunk = number(&refusal[0])?;
        if refusal[1] == "b" { missing.unaffordable.push(chunk) } else { missing.elsewhere.push(chunk) }
    }
    Ok(missing)
}

fn grant_of(fields: &[String]) -> Result<Grant, LiveError> {
    let terminal = fields[0].parse().map_err(|_| LiveError::Reply(format!("{:?} is no terminal", fields[0])))?;
    let kind = match fields[2].as_str() {
        "f" => GrantKind::FirstCopy,
        "d" => GrantKind::Direct,
        "p" => GrantKind::Repair,
        other => return Err(LiveError::Reply(format!("{other:?} is no kind of grant"))),
    };
    Ok(Grant { terminal, chunk: number(&fields[1])?, kind })
}

fn returned_of(fields: &[String]) -> Result<Returned, LiveError> {
    let terminal = fields[1].parse().map_err(|_| LiveError::Reply(format!("{:?} is no terminal", fields[1])))?;
    let why = if fields[2] == "x" { WhyReturned::Expired } else { WhyReturned::Gone };
    Ok(Returned { chunk: number(&fields[0])?, terminal, why })
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, LiveError> {
    text.parse().map_err(|_| LiveError::Reply(format!("{text:?} is no number")))
}

fn millis(moment: OffsetDateTime) -> u64 {
    crate::clock::to_timestamp_ms(moment).0
}
