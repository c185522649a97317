//! The server as the terminals see it: connections, plans, lease tables, budget, receipts. It decides at once and without I/O; what it pushes and what
//! the invariants have to know are collected for the world to take.
//!
//! Its lease tables are [`rules::lease_table`], with which the server's own tests compare its scripts.

pub(crate) mod budget;
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::bitmap::ChunkSet;
use protocol::receipt::Receipt;
use protocol::ws::{ChunkNotice, GrantKind, SwarmPlan};
use protocol::{ErrorCode, GroupId, PublicKey};
use rules::lease_table::{self, Call, FetchRight, Limits, Marks, Outcome, Part, Refused as MissingRefused, Shared, Spec};
use rules::relay_plan::PlanError;
use swarm::Now;

use crate::content::Content;
use crate::plan::{Identity, Planner};
use crate::scenario::Scenario;
use budget::Budget;

type Table = lease_table::Table<usize>;

/// How long members are asked what they hold before the table is built from those who answered; and how much longer a connected one may take.
const ASK_FOR: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(4);
/// How long a member that others found silent is given nothing.
const BENCH: Duration = Duration::from_secs(5);
/// How long a report that a terminal does not answer counts.
const SUSPICION_FOR: Duration = Duration::from_secs(5);
/// How much of the origin's uplink may be leased ahead.
const LEASED_AHEAD_MS: u64 = 500;
/// Leases that a terminal may claim after a loss.
const CLAIMS_MAX: usize = 32;
/// Chunks that a terminal may fetch without having signed for them.
const UNSIGNED_MAX: usize = 128;

/// A moment as the lease tables count time.
pub(crate) fn millis(at: Now) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// What a terminal says over its WebSocket.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    Credits(u32),
    Notices(Vec<ChunkNotice>),
    Receipts(Vec<Receipt>),
    Missing(Vec<u32>),
    Holdings {
        have: ChunkSet,
        leases: Vec<u32>,
    },
    /// The server treats all reasons alike.
    Suspect(usize),
    Sync,
}

/// What the server says of its own accord.
#[derive(Debug, Clone)]
pub(crate) enum Push {
    Plan(Box<SwarmPlan>),
    Grant { kind: GrantKind, chunks: Vec<u32> },
    RepairRefused { chunks: Vec<u32>, code: ErrorCode },
    PeerGone(protocol::TerminalId),
    ReportHoldings,
    Reload,
}

/// What happened at the server that the invariants are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The terminal speaks to its group's table, and is not kept on the bench.
    Here { group: GroupId, terminal: usize },
    /// It was taken out of its group's table.
    Gone { group: GroupId, terminal: usize },
    /// It was given a chunk.
    Granted { group: GroupId, terminal: usize, chunk: u32, kind: GrantKind },
    /// It has begun to fetch: its lease lasts longer.
    Fetching { group: GroupId, terminal: usize, chunk: u32 },
    /// The budget does not have the chunk: the lease is over.
    LeaseOver { group: GroupId, terminal: usize, chunk: u32 },
    /// It has said that it holds the chunk; `done`: also that its copies are done.
    Holds { group: GroupId, terminal: usize, chunk: u32, done: bool },
    /// It has asked for the chunk as missing.
    Lacks { group: GroupId, terminal: usize, chunk: u32 },
    /// The server knows nothing more of leases and holdings.
    Forgotten,
    /// It was told that the budget is spent.
    BudgetSpent { terminal: usize, chunk: u32 },
}

/// Why the origin does not send a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    NoLease,
    Unsigned,
    BudgetSpent,
}

/// A fetch that is allowed, and out of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paid {
    part: Part,
    marks: Marks,
}

/// A lost table while the members tell what they hold.
#[derive(Debug)]
struct Rebuild {
    until: Now,
    told: BTreeMap<usize, ChunkSet>,
    claims: BTreeMap<u32, usize>,
}

#[derive(Debug)]
enum State {
    Ready(Box<Table>),
    Rebuilding(Rebuild),
    Lost,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) group: GroupId,
    pub(crate) root: bool,
    pub(crate) wave: u32,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) planner: Planner,
    places: BTreeMap<usize, Place>,
    tables: BTreeMap<GroupId, State>,
    pub(crate) shared: Shared<usize>,
    budget: Budget,
    lengths: Vec<u64>,
    /// What each terminal has signed for, for whichever source.
    signed: Vec<ChunkSet>,
    keys: Option<Vec<PublicKey>>,
    suspicions: BTreeMap<usize, BTreeMap<usize, Now>>,
    /// Terminals of each wave, and when the waves open.
    waves: Vec<(Now, Vec<usize>)>,
    deadline: Now,
    in_flight_max: u64,
    /// When the server came back last, having been away.
    pub(crate) came_at: Now,
    pub(crate) pushes: Vec<(usize, Push)>,
    pub(crate) facts: Vec<Fact>,
    /// Times that a member was taken out of its group because others reported it.
    pub(crate) removed: u64,
    pub(crate) rebuilt: u64,
    /// Receipts whose signature was wrong.
    pub(crate) forged: u64,
}

impl Server {
    pub(crate) fn new(scenario: &Scenario, content: &Content, identities: &[Identity]) -> Self {
        let in_wave = |wave: usize| (0..scenario.terminals.len()).filter(move |&index| scenario.terminals[index].wave as usize == wave);
        let in_flight_max = scenario.origin_up.0 / 8 * LEASED_AHEAD_MS / 1_000;
        Self {
            planner: Planner::new(scenario, content.manifest.edition_id(), identities),
            places: BTreeMap::new(),
            tables: BTreeMap::new(),
            shared: Shared::default(),
            budget: Budget::new(scenario.budget.0, scenario.size().0),
            lengths: (0..content.count()).map(|chunk| content.length(chunk)).collect(),
            signed: vec![ChunkSet::default(); identities.len()],
            keys: scenario.thorough.then(|| identities.iter().map(|identity| identity.key.public()).collect()),
            suspicions: BTreeMap::new(),
            waves: scenario.waves.iter().enumerate().map(|(wave, &opens)| (opens, in_wave(wave).collect())).collect(),
            deadline: scenario.limit,
            in_flight_max: in_flight_max.max(4 * u64::from(protocol::frame::CHUNK_MAX)),
            came_at: Now::ZERO,
            pushes: Vec::new(),
            facts: Vec::new(),
            removed: 0,
            rebuilt: 0,
            forged: 0,
        }
    }

    pub(crate) fn place(&self, terminal: usize) -> Option<Place> {
        self.places.get(&terminal).copied()
    }

    /// Whether the terminal has signed for the chunk, as far as the server was told.
    pub(crate) fn has_receipt(&self, terminal: usize, chunk: u32) -> bool {
        self.signed.get(terminal).is_some_and(|signed| signed.contains(chunk))
    }

    /// Whether the budget has the chunk for who misses it. `held`: by somebody live.
    pub(crate) fn can_afford(&self, chunk: u32, held: bool) -> bool {
        let (first, length) = (!self.shared.sent.contains(chunk), self.lengths.get(chunk as usize).copied().unwrap_or(0));
        let room = match (first, held) {
            (true, _) => self.budget.room(Part::First),
            (false, true) => self.budget.room(Part::Repair).min(self.budget.for_doubles().saturating_sub(self.shared.doubled)),
            (false, false) => self.budget.room(Part::Repair),
        };
        length <= room
    }

    /// Plans a wave, and tells everybody whose plan has changed.
    ///
    /// # Errors
    /// A defect in `rules`.
    pub(crate) fn plan_wave(&mut self, wave: u32, now: Now) -> Result<(), PlanError> {
        let Some((opens, terminals)) = self.waves.get(wave as usize).cloned() else { return Ok(()) };
        let received = self.places.keys().any(|&earlier| !self.signed[earlier].is_empty());
        let connected = self.places.keys().any(|earlier| self.shared.present.contains(earlier));
        let before = self.planner.tree.clone();
        // Who is connected can be told of nobody for a while after the server was away at the opening before.
        let before_opened = wave.checked_sub(1).and_then(|before| self.waves.get(before as usize)).map_or(Now::MAX, |(opens, _)| *opens);
        let absence_is_known = rules::suspicion::absence_is_known(millis(self.came_at), millis(before_opened), millis(now));
        let groups = self.planner.plan(wave, &terminals, wave > 0 && (received || connected || !absence_is_known))?;
        for group in self.planner.tree.groups().iter().filter(|group| groups.contains(&group.id)) {
            for member in &group.members {
                let place = Place { group: group.id, root: group.root, wave: group.wave };
                self.places.extend(self.planner.indices.get(&member.terminal_id).map(|&index| (index, place)));
            }
        }
        for group in groups {
            let table = Table::new(self.spec(group, opens), self.lengths.clone());
            self.tables.insert(group, State::Ready(Box::new(table)));
        }
        let ids: Vec<_> = self.planner.indices.iter().map(|(&id, &index)| (id, index)).collect();
        let changed = ids.into_iter().filter(|(id, _)| self.planner.tree.view(*id) != before.view(*id));
        for terminal in changed.map(|(_, index)| index).collect::<BTreeSet<usize>>() {
            self.tell_plan(terminal);
        }
        Ok(())
    }

    fn tell_plan(&mut self, terminal: usize) {
        let Some(place) = self.place(terminal) else { return };
        let opens = self.waves.get(place.wave as usize).map_or(Now::ZERO, |(opens, _)| *opens);
        let plan = self.planner.plan_of(terminal, place.wave, opens, self.deadline);
        self.pushes.extend(plan.map(|plan| (terminal, Push::Plan(Box::new(plan)))));
    }

    fn spec(&self, group: GroupId, opens: Now) -> Spec<usize> {
        let below = self.planner.tree.groups().iter().filter(|below| below.parent == Some(group)).count();
        let found = self.planner.tree.groups().iter().find(|planned| planned.id == group);
        let members = found.map_or(&[][..], |group| &group.members);
        let copies = u64::try_from(members.len().saturating_sub(1) + below).unwrap_or(u64::MAX).max(1);
        let overhead = |up: u64| 8_000_000_000 * copies / up.max(1);
        Spec {
            root: found.is_some_and(|group| group.root),
            opens: millis(opens),
            members: members
                .iter()
                .filter_map(|member| self.planner.indices.get(&member.terminal_id).map(|&index| (index, overhead(member.up.0))))
                .collect(),
        }
    }

    /// The wave has opened: what was asked for already is given.
    pub(crate) fn open_wave(&mut self, wave: u32, now: Now) {
        let roots: Vec<GroupId> =
            self.planner.tree.groups().iter().filter(|group| group.wave == wave && group.root).map(|group| group.id).collect();
        for group in roots {
            self.with_table(group, now, |table, call| table.credits(None, None, call));
        }
    }

    /// Redis loses everything: tables, presence, suspicions.
    pub(crate) fn forget_everything(&mut self) {
        self.tables.values_mut().for_each(|state| *state = State::Lost);
        self.shared = Shared::default();
        self.suspicions.clear();
        self.facts.push(Fact::Forgotten);
    }

    fn limits(&self) -> Limits {
        Limits { in_flight_max: self.in_flight_max, unsigned_max: UNSIGNED_MAX, direct: self.budget.room_for_direct() }
    }

    /// Runs `act` on the table of a group if it is there, and says the grants that it makes; else sees to it that it is rebuilt. `None` then.
    fn with_table<T: Granting>(
        &mut self,
        group: GroupId,
        now: Now,
        act: impl FnOnce(&mut Table, &mut Call<'_, usize>) -> T,
    ) -> Option<T::Rest> {
        self.open_table(group, now);
        let limits = self.limits();
        let Some(State::Ready(table)) = self.tables.get_mut(&group) else { return None };
        let (outcome, rest) = act(table, &mut Call { shared: &mut self.shared, limits, now: millis(now) }).parts();
        self.say(group, outcome);
        Some(rest)
    }

    /// Tells the terminals what they were given.
    fn say(&mut self, group: GroupId, outcome: Outcome<usize>) {
        let mut lists: Vec<(usize, GrantKind, Vec<u32>)> = Vec::new();
        for lease_table::Grant { terminal, chunk, kind } in outcome.grants {
            self.facts.push(Fact::Granted { group, terminal, chunk, kind });
            match lists.iter_mut().find(|list| (list.0, list.1) == (terminal, kind)) {
                Some(list) => list.2.push(chunk),
                None => lists.push((terminal, kind, vec![chunk])),
            }
        }
        self.pushes.extend(lists.into_iter().map(|(terminal, kind, chunks)| (terminal, Push::Grant { kind, chunks })));
    }

    /// Begins or finishes to rebuild a lost table.
    fn open_table(&mut self, group: GroupId, now: Now) {
        let members: Vec<usize> = self.members(group);
        let present = &self.shared.present;
        match self.tables.get_mut(&group) {
            None | Some(State::Ready(_)) => {}
            Some(state @ State::Lost) => {
                *state = State::Rebuilding(Rebuild { until: now + ASK_FOR, told: BTreeMap::new(), claims: BTreeMap::new() });
                self.pushes.extend(members.into_iter().map(|member| (member, Push::ReportHoldings)));
            }
            Some(State::Rebuilding(rebuild)) => {
                let mut silent = members.iter().filter(|member| !rebuild.told.contains_key(member)).peekable();
                let any_silent = silent.peek().is_some();
                let connected = silent.any(|member| present.contains(member));
                if !((any_silent && now < rebuild.until) || (connected && now < rebuild.until + ANSWER)) {
                    self.finish_rebuild(group, &members, now);
                }
            }
        }
    }

    fn finish_rebuild(&mut self, group: GroupId, members: &[usize], now: Now) {
        let wave = members.first().and_then(|&member| self.place(member)).map_or(0, |place| place.wave);
        let opens = self.waves.get(wave as usize).map_or(Now::ZERO, |(opens, _)| *opens);
        let spec = self.spec(group, opens);
        let Some(State::Rebuilding(Rebuild { told, claims, .. })) = self.tables.insert(group, State::Lost) else { return };
        // What was sent is told by receipts alone.
        members.iter().for_each(|&member| self.shared.sent.extend(&self.signed[member]));
        self.shared.fed = millis(now);
        self.facts.extend(told.keys().map(|&terminal| Fact::Here { group, terminal }));
        let table = Table::rebuilt(spec, self.lengths.clone(), told, &claims, millis(now));
        self.tables.insert(group, State::Ready(Box::new(table)));
        self.rebuilt += 1;
    }

    pub(crate) fn members(&self, group: GroupId) -> Vec<usize> {
        self.places.iter().filter(|(_, place)| place.group == group).map(|(&terminal, _)| terminal).collect()
    }

    /// Whether the terminal may fetch the chunk; then its bytes are taken from the budget.
    pub(crate) fn fetch(&mut self, terminal: usize, chunk: u32, now: Now) -> Result<Paid, Refused> {
        let place = self.place(terminal).ok_or(Refused::NoLease)?;
        self.open_table(place.group, now);
        let limits = self.limits();
        let Some(State::Ready(table)) = self.tables.get_mut(&place.group) else { return Err(Refused::NoLease) };
        let mut call = Call { shared: &mut self.shared, limits, now: millis(now) };
        let mut right = table.fetch(terminal, chunk, &mut call);
        if right == FetchRight::Unsigned {
            table.signed(terminal, self.signed[terminal].iter(), false);
            right = table.fetch(terminal, chunk, &mut call);
        }
        let group = place.group;
        match right {
            FetchRight::None => Err(Refused::NoLease),
            FetchRight::Unsigned => Err(Refused::Unsigned),
            FetchRight::Granted { part, marks } => {
                self.facts.push(Fact::Fetching { group, terminal, chunk });
                if self.budget.take(part, self.lengths[chunk as usize]) {
                    return Ok(Paid { part, marks });
                }
                table.unfetch(terminal, chunk, marks, true, &mut call);
                self.facts.push(Fact::LeaseOver { group, terminal, chunk });
                match part {
                    // It comes from another member.
                    Part::Direct => {}
                    Part::First | Part::Repair => self.facts.push(Fact::BudgetSpent { terminal, chunk }),
                }
                Err(Refused::BudgetSpent)
            }
        }
    }

    /// A chunk that was paid for was not sent.
    pub(crate) fn unfetch(&mut self, terminal: usize, chunk: u32, paid: Paid, now: Now) {
        self.budget.put_back(paid.part, self.lengths[chunk as usize]);
        let limits = self.limits();
        if let Some(State::Ready(table)) = self.place(terminal).and_then(|place| self.tables.get_mut(&place.group)) {
            table.unfetch(terminal, chunk, paid.marks, false, &mut Call { shared: &mut self.shared, limits, now: millis(now) });
        }
    }

    /// (tables that are lost or being rebuilt, chunks that wait to be given again), for a run that got stuck.
    pub(crate) fn standing(&self) -> (usize, usize) {
        let ready = self.tables.values().filter_map(|state| match state {
            State::Ready(table) => Some(table),
            State::Rebuilding(_) | State::Lost => None,
        });
        let (count, returned) = ready.fold((0, 0), |(count, returned), table| (count + 1, returned + table.returned.len()));
        (self.tables.len() - count, returned)
    }
}

/// What a call to a table answers: grants, and something else.
trait Granting {
    type Rest;
    fn parts(self) -> (Outcome<usize>, Self::Rest);
}

impl Granting for Outcome<usize> {
    type Rest = ();
    fn parts(self) -> (Outcome<usize>, ()) {
        (self, ())
    }
}

impl Granting for (Outcome<usize>, Vec<u64>) {
    type Rest = Vec<u64>;
    fn parts(self) -> (Outcome<usize>, Vec<u64>) {
        self
    }
}

impl Granting for (Outcome<usize>, MissingRefused) {
    type Rest = MissingRefused;
    fn parts(self) -> (Outcome<usize>, MissingRefused) {
        self
    }
}
