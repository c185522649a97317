//! The scripts and the model side by side: each call goes to both, and their answers are compared.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ws::{ChunkNotice, GrantKind};
use protocol::{Bytes, GroupId, SwarmId, TerminalId, TimestampMs};
use rules::lease_table::{self, Call, Marks, Part, Shared, Spec};

use super::super::*;
use super::histories::{Step, Then};

type Outcome = lease_table::Outcome<TerminalId>;

pub(super) const MEMBERS: u8 = 4;
/// Few enough that the random histories reach it.
pub(super) const UNSIGNED_MAX: u32 = 6;

/// The table in plain Rust, and all that its calls are made with.
#[derive(Debug)]
pub(super) struct Model {
    table: lease_table::Table<TerminalId>,
    shared: Shared<TerminalId>,
    limits: lease_table::Limits,
    pub(super) now: u64,
}

impl Model {
    /// Calls the table.
    fn on<R>(&mut self, act: impl FnOnce(&mut lease_table::Table<TerminalId>, &mut Call<'_, TerminalId>) -> R) -> R {
        act(&mut self.table, &mut Call { shared: &mut self.shared, limits: self.limits, now: self.now })
    }

    pub(super) fn is_balanced(&self) -> bool {
        self.table.is_balanced()
    }

    /// What the terminal has not signed for, if that is too much.
    fn unsigned_of(&self, terminal: TerminalId) -> Vec<u32> {
        let owes = self.table.owes_signatures(terminal, self.limits);
        self.table.unsigned.get(&terminal).filter(|_| owes).into_iter().flatten().copied().collect()
    }
}

/// What the server says of an outcome of the model.
fn spoken(outcome: Outcome) -> (Vec<Returned>, Vec<Grant>) {
    let grant = |lease_table::Grant { terminal, chunk, kind }| Grant { terminal, chunk, kind };
    let returned = |lease_table::Returned { chunk, terminal, why }| Returned { chunk, terminal, why };
    (outcome.returned.into_iter().map(returned).collect(), outcome.grants.into_iter().map(grant).collect())
}

/// Marks as the scripts write them.
fn written(marks: Marks) -> String {
    [(marks.unsigned, "u"), (marks.group, "g"), (marks.swarm, "s")].into_iter().filter_map(|(set, mark)| set.then_some(mark)).collect()
}

fn read(marks: &str) -> Marks {
    Marks { unsigned: marks.contains('u'), group: marks.contains('g'), swarm: marks.contains('s') }
}

/// Both tables side by side.
pub(super) struct Pair<'a> {
    fixture: &'a Fixture,
    pub(super) model: Model,
    pub(super) group: GroupId,
    bench: Duration,
}

impl Pair<'_> {
    pub(super) async fn new(
        fixture: &Fixture,
        lengths: Vec<u32>,
        overheads: [u64; MEMBERS as usize],
        root: bool,
        (in_flight_max, direct): (u64, u64),
    ) -> Pair<'_> {
        let members: Vec<(TerminalId, u64)> = (0..MEMBERS).map(terminal).zip(overheads).collect();
        let group = GroupId::from_bytes([7; 16]);
        let spec = GroupSpec {
            group,
            swarm: SwarmId::from_bytes([8; 16]),
            root,
            opens_at: at(500),
            keep_until: OffsetDateTime::now_utc() + Duration::from_secs(600),
            chunk_lengths: lengths.clone(),
            members: members.clone(),
        };
        fixture.live.create_group(&spec, at(0)).await.unwrap();
        let spec = Spec { root, opens: crate::clock::to_timestamp_ms(at(500)).0, members: members.into_iter().collect() };
        let model = Model {
            table: lease_table::Table::new(spec, lengths.into_iter().map(u64::from).collect()),
            shared: Shared::default(),
            limits: lease_table::Limits { in_flight_max, unsigned_max: UNSIGNED_MAX as usize, direct },
            now: crate::clock::to_timestamp_ms(at(0)).0,
        };
        let mut pair = Pair { fixture, model, group, bench: Duration::ZERO };
        for member in 0..MEMBERS {
            pair.present(member, true).await;
        }
        pair
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_millis(self.model.now)
    }

    pub(super) fn limits(&self) -> Limits {
        let limits = self.model.limits;
        Limits { in_flight_max: Bytes(limits.in_flight_max), unsigned_max: UNSIGNED_MAX, direct: Bytes(limits.direct) }
    }

    pub(super) fn from(&self, member: u8) -> Sender {
        Sender { group: self.group, terminal: terminal(member), limits: self.limits() }
    }

    async fn present(&mut self, member: u8, present: bool) {
        self.fixture.set_present(terminal(member), present).await;
        if present {
            self.model.shared.present.insert(terminal(member))
        } else {
            self.model.shared.present.remove(&terminal(member))
        };
    }

    /// Whether a first copy may be given now: nobody live holds or leases the chunk. Looked up before the call, with those whom the call itself
    /// finds gone taken away by the model's own rule afterwards.
    fn check_first_copies(&self, before: &BTreeSet<u32>, outcome: &Outcome) {
        for grant in outcome.grants.iter().filter(|grant| grant.kind == GrantKind::FirstCopy) {
            assert!(!self.model.table.live_holder(grant.chunk, None), "chunk {} was given although a live member holds it", grant.chunk);
            assert_eq!(self.model.table.leases[&grant.chunk].terminal, grant.terminal);
            assert!(!before.contains(&grant.chunk), "chunk {} was given while another member leased it", grant.chunk);
        }
        let mut chunks: Vec<u32> = outcome.grants.iter().map(|grant| grant.chunk).collect();
        chunks.sort_unstable();
        chunks.dedup();
        let direct = outcome.grants.iter().filter(|grant| grant.kind == GrantKind::Direct).count();
        assert!(chunks.len() + direct >= outcome.grants.len(), "a chunk was given twice in one step");
    }

    /// Chunks under leases that hold beyond this step whatever happens in it: of members that are there, not expired.
    fn firm_leases(&self, leaving: Option<TerminalId>, asking: Option<TerminalId>) -> BTreeSet<u32> {
        let firm =
            |terminal: TerminalId| Some(terminal) != leaving && Some(terminal) != asking && self.model.shared.present.contains(&terminal);
        self.model
            .table
            .leases
            .iter()
            .filter(|(_, lease)| firm(lease.terminal) && !lease.received && !lease.is_over(self.model.now))
            .map(|(&chunk, _)| chunk)
            .collect()
    }

    pub(super) async fn step(&mut self, step: &Step) {
        let (live, now) = (&self.fixture.live, self.now());
        match step {
            Step::Credits { member, open } => {
                let firm = self.firm_leases(None, Some(terminal(*member)));
                let real = ready(live.credits(self.from(*member), *open, now).await);
                let model = self.model.on(|table, call| table.credits(Some(terminal(*member)), Some(*open), call));
                self.check_first_copies(&firm, &model);
                assert_eq!((real.returned, real.granted), spoken(model));
                assert_eq!(real.outcome, self.model.unsigned_of(terminal(*member)));
            }
            Step::Join { member } => {
                let real = ready(live.join(self.from(*member), now).await);
                assert_eq!(
                    (real.returned, real.granted),
                    spoken(self.model.on(|table, call| table.credits(Some(terminal(*member)), None, call)))
                );
            }
            Step::Allocate => {
                let firm = self.firm_leases(None, None);
                let real = ready(live.allocate(self.group, self.limits(), now).await);
                let model = self.model.on(|table, call| table.credits(None, None, call));
                self.check_first_copies(&firm, &model);
                assert_eq!((real.returned, real.granted), spoken(model));
            }
            Step::Notices { member, pick, done, stray } => self.notices(*member, pick, *done, *stray).await,
            Step::Leave { member, bench_ms } => {
                let firm = self.firm_leases(Some(terminal(*member)), None);
                let bench = Duration::from_millis(u64::from(*bench_ms));
                let real = ready(live.leave(self.from(*member), bench, now).await);
                let model = self.model.on(|table, call| table.leave(terminal(*member), u64::from(*bench_ms), call));
                self.check_first_copies(&firm, &model);
                assert_eq!((real.returned, real.granted), spoken(model));
                self.bench = self.bench.max(bench);
            }
            Step::Vanish { member } => self.present(*member, false).await,
            Step::Return { member } => self.present(*member, true).await,
            Step::Missing { member, pick, receipted, feeders_connected, again, first, doubled } => {
                let affordable =
                    Affordable { again: Bytes((*again).into()), first: Bytes((*first).into()), doubled: Bytes((*doubled).into()) };
                self.missing(*member, pick, *receipted, *feeders_connected, affordable).await;
            }
            Step::Sign { member, fresh } => {
                let chunks = self.model.table.unsigned.get(&terminal(*member)).cloned().unwrap_or_default();
                live.signed(self.from(*member), chunks.iter().copied(), *fresh, now).await.unwrap();
                self.model.table.signed(terminal(*member), chunks, *fresh);
            }
            Step::Fetch { member, pick, stray, then } => self.fetch(*member, *pick, *stray, *then).await,
            Step::Wait { ms } => self.model.now += u64::from(*ms),
        }
    }

    /// A chunk that the member leases, if there is one, or (with `stray`) any.
    fn chunk_of(&self, member: u8, pick: u8, stray: bool) -> Option<u32> {
        let leased: Vec<u32> = self.model.table.coming_to(terminal(member));
        let count = self.model.table.count();
        if stray { Some(u32::from(pick) % count) } else { (!leased.is_empty()).then(|| leased[usize::from(pick) % leased.len()]) }
    }

    async fn fetch(&mut self, member: u8, pick: u8, stray: bool, then: Then) {
        let Some(chunk) = self.chunk_of(member, pick, stray) else { return };
        let (live, now, from) = (&self.fixture.live, self.now(), self.from(member));
        let Table::Ready(real) = live.fetch(from, chunk, now).await.unwrap() else { panic!("the table is gone") };
        let model = match self.model.on(|table, call| table.fetch(terminal(member), chunk, call)) {
            lease_table::FetchRight::None => FetchRight::None,
            lease_table::FetchRight::Unsigned => FetchRight::Unsigned(self.model.unsigned_of(terminal(member))),
            lease_table::FetchRight::Granted { part, marks } => {
                let budget = match part {
                    Part::First => Budget::First,
                    Part::Repair => Budget::Repair,
                    Part::Direct => Budget::Direct,
                };
                FetchRight::Granted { budget, marks: written(marks) }
            }
        };
        assert_eq!(real, model);
        match (then, real) {
            (Then::Renewed, _) => {
                live.renew_lease(from, chunk, now).await.unwrap();
                self.model.on(|table, call| table.renew(terminal(member), chunk, call));
            }
            (Then::NotSent, FetchRight::Granted { marks, .. }) => {
                live.unfetch(from, chunk, &marks, now).await.unwrap();
                self.model.on(|table, call| table.unfetch(terminal(member), chunk, read(&marks), false, call));
            }
            (Then::Unaffordable, FetchRight::Granted { marks, .. }) => {
                live.unaffordable(from, chunk, &marks, now).await.unwrap();
                self.model.on(|table, call| table.unfetch(terminal(member), chunk, read(&marks), true, call));
            }
            (Then::Sent, _) | (Then::NotSent | Then::Unaffordable, FetchRight::None | FetchRight::Unsigned(_)) => {}
        }
    }

    async fn notices(&mut self, member: u8, pick: &[u8], done: bool, stray: bool) {
        let mut notices: Vec<(u32, Option<u64>)> = pick
            .iter()
            .filter_map(|&pick| {
                Some((self.chunk_of(member, pick, stray)?, done.then(|| self.model.now.saturating_add(40).saturating_sub(u64::from(pick)))))
            })
            .collect();
        notices.sort_unstable();
        notices.dedup_by_key(|notice| notice.0);
        let sent: Vec<ChunkNotice> = notices
            .iter()
            .map(|&(chunk, done)| ChunkNotice { chunk, received_at: TimestampMs(self.model.now), copies_done_at: done.map(TimestampMs) })
            .collect();
        let firm = self.firm_leases(None, Some(terminal(member)));
        let real = ready(self.fixture.live.notices(self.from(member), &sent, self.now()).await);
        let (model, samples) = self.model.on(|table, call| table.notices(terminal(member), &notices, call));
        self.check_first_copies(&firm, &model);
        assert_eq!((real.returned, real.granted), spoken(model));
        assert_eq!(real.outcome, samples);
    }

    async fn missing(&mut self, member: u8, pick: &[u8], receipted: bool, feeders_connected: bool, affordable: Affordable) {
        let count = self.model.table.count();
        let chunks: BTreeMap<u32, bool> = pick.iter().map(|&pick| (u32::from(pick) % count, receipted && pick % 2 == 0)).collect();
        let wanted = Wanted { chunks: &chunks, feeders_connected };
        let real = ready(self.fixture.live.missing(self.from(member), affordable, wanted, self.now()).await);
        let affordable = lease_table::Affordable { again: affordable.again.0, first: affordable.first.0, doubled: affordable.doubled.0 };
        let wanted = lease_table::Wanted { chunks: &chunks, feeders_connected };
        let (model, refused) = self.model.on(|table, call| table.missing(terminal(member), affordable, wanted, call));
        assert_eq!((real.returned, real.granted), spoken(model));
        assert_eq!(real.outcome, Missing { elsewhere: refused.elsewhere, unaffordable: refused.unaffordable });
    }

    /// Everybody is there, asks, and receives what it is given: each chunk must get to somebody.
    pub(super) async fn drain(&mut self) {
        self.model.now += u64::try_from(self.bench.as_millis()).unwrap();
        for member in 0..MEMBERS {
            self.present(member, true).await;
        }
        for _ in 0..2 * self.model.table.count() + 60 {
            for member in 0..MEMBERS {
                self.step(&Step::Sign { member, fresh: false }).await;
                self.step(&Step::Credits { member, open: 4 }).await;
                self.step(&Step::Notices { member, pick: (0..=7).collect(), done: true, stray: false }).await;
            }
            let table = &self.model.table;
            if table.has_given_all() && table.returned.is_empty() && table.leases.is_empty() && !table.sends_directly() {
                return;
            }
            self.model.now += 100;
        }
        panic!("not every chunk was given: {:?}", self.model);
    }
}

pub(super) fn ready<T>(table: Result<Table<GroupAnswer<T>>, LiveError>) -> GroupAnswer<T> {
    match table.unwrap() {
        Table::Ready(answer) => answer,
        Table::Rebuilding | Table::Lost | Table::Stranger => panic!("the table is not ready"),
    }
}
