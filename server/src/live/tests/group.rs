//! The scripts against the model, and the promises of the lease table against both.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use protocol::ws::{ChunkNotice, GrantKind};
use protocol::{Bytes, GroupId, SwarmId, TerminalId, TimestampMs};

use rules::lease_table::{self, Call, Marks, Part, Shared, Spec};

use super::*;

type Outcome = lease_table::Outcome<TerminalId>;

const MEMBERS: u8 = 4;
/// Few enough that the random histories reach it.
const UNSIGNED_MAX: u32 = 6;

/// What becomes of a chunk that may be fetched.
#[derive(Debug, Clone, Copy)]
enum Then {
    Sent,
    Renewed,
    NotSent,
    Unaffordable,
}

#[derive(Debug, Clone)]
enum Step {
    Credits {
        member: u8,
        open: u32,
    },
    Join {
        member: u8,
    },
    Allocate,
    /// Notices for some of the chunks that the member leases, or (with `stray`) for any chunk.
    Notices {
        member: u8,
        pick: Vec<u8>,
        done: bool,
        stray: bool,
    },
    Leave {
        member: u8,
        bench_ms: u16,
    },
    /// The WebSocket is gone, and nobody says so.
    Vanish {
        member: u8,
    },
    Return {
        member: u8,
    },
    Missing {
        member: u8,
        pick: Vec<u8>,
        receipted: bool,
        feeders_connected: bool,
        again: u32,
        first: u32,
        doubled: u32,
    },
    /// It signs for everything, or the server learns that it had.
    Sign {
        member: u8,
        fresh: bool,
    },
    /// A chunk that the member leases, or (with `stray`) any.
    Fetch {
        member: u8,
        pick: u8,
        stray: bool,
        then: Then,
    },
    Wait {
        ms: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let member = 0..MEMBERS;
    let pick = prop::collection::vec(any::<u8>(), 1..6);
    prop_oneof![
        6 => (member.clone(), 0u32..6).prop_map(|(member, open)| Step::Credits { member, open }),
        1 => member.clone().prop_map(|member| Step::Join { member }),
        1 => Just(Step::Allocate),
        6 => (member.clone(), pick.clone(), any::<bool>(), prop::bool::weighted(0.1)).prop_map(|(member, pick, done, stray)| Step::Notices { member, pick, done, stray }),
        1 => (member.clone(), prop_oneof![Just(0u16), 1u16..9000]).prop_map(|(member, bench_ms)| Step::Leave { member, bench_ms }),
        1 => member.clone().prop_map(|member| Step::Vanish { member }),
        2 => member.clone().prop_map(|member| Step::Return { member }),
        2 => (member.clone(), pick, prop::bool::weighted(0.2), any::<bool>(), 0u32..3000, 0u32..3000, 0u32..3000)
            .prop_map(|(member, pick, receipted, feeders_connected, again, more, doubled)| {
                Step::Missing { member, pick, receipted, feeders_connected, again, first: again + more, doubled }
            }),
        2 => (member.clone(), any::<bool>()).prop_map(|(member, fresh)| Step::Sign { member, fresh }),
        5 => (member, 0u8..8, prop::bool::weighted(0.1), prop_oneof![6 => Just(Then::Sent), 1 => Just(Then::Renewed), 1 => Just(Then::NotSent), 1 => Just(Then::Unaffordable)])
            .prop_map(|(member, pick, stray, then)| Step::Fetch { member, pick, stray, then }),
        5 => prop_oneof![3 => 1u16..700, 1 => 700u16..20_000].prop_map(|ms| Step::Wait { ms }),
    ]
}

/// The table in plain Rust, and all that its calls are made with.
#[derive(Debug)]
struct Model {
    table: lease_table::Table<TerminalId>,
    shared: Shared<TerminalId>,
    limits: lease_table::Limits,
    now: u64,
}

impl Model {
    /// Calls the table.
    fn on<R>(&mut self, act: impl FnOnce(&mut lease_table::Table<TerminalId>, &mut Call<'_, TerminalId>) -> R) -> R {
        act(&mut self.table, &mut Call { shared: &mut self.shared, limits: self.limits, now: self.now })
    }

    /// What the terminal has not signed for, if that is too much.
    fn unsigned_of(&self, terminal: TerminalId) -> Vec<u32> {
        let owes = self.table.owes_signatures(terminal, self.limits);
        self.table.unsigned.get(&terminal).filter(|_| owes).into_iter().flatten().copied().collect()
    }
}

/// What the server says of an outcome of the model.
fn spoken(outcome: Outcome) -> (u64, Vec<Grant>) {
    let grant = |lease_table::Grant { terminal, chunk, kind }| Grant { terminal, chunk, kind };
    (outcome.returned, outcome.grants.into_iter().map(grant).collect())
}

/// Marks as the scripts write them.
fn written(marks: Marks) -> String {
    [(marks.unsigned, "u"), (marks.group, "g"), (marks.swarm, "s")].into_iter().filter_map(|(set, mark)| set.then_some(mark)).collect()
}

fn read(marks: &str) -> Marks {
    Marks { unsigned: marks.contains('u'), group: marks.contains('g'), swarm: marks.contains('s') }
}

/// Both tables side by side.
struct Pair<'a> {
    fixture: &'a Fixture,
    model: Model,
    group: GroupId,
    bench: Duration,
}

impl Pair<'_> {
    async fn new(
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

    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_millis(self.model.now)
    }

    fn limits(&self) -> Limits {
        let limits = self.model.limits;
        Limits { in_flight_max: Bytes(limits.in_flight_max), unsigned_max: UNSIGNED_MAX, direct: Bytes(limits.direct) }
    }

    fn from(&self, member: u8) -> Sender {
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

    async fn step(&mut self, step: &Step) {
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
    async fn drain(&mut self) {
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
            if table.next == table.count() && table.returned.is_empty() && table.leases.is_empty() && !table.sends_directly() {
                return;
            }
            self.model.now += 100;
        }
        panic!("not every chunk was given: {:?}", self.model);
    }
}

fn ready<T>(table: Result<Table<GroupAnswer<T>>, LiveError>) -> GroupAnswer<T> {
    match table.unwrap() {
        Table::Ready(answer) => answer,
        Table::Rebuilding | Table::Lost | Table::Stranger => panic!("the table is not ready"),
    }
}

#[test]
fn the_scripts_and_the_model_agree_on_every_history_and_every_chunk_is_given() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let histories = (
        prop::collection::vec(1u32..1200, 1..40),
        [1u64..5000, 1u64..5000, 1u64..5000, 1u64..5000],
        prop::bool::weighted(0.9),
        (prop_oneof![Just(0u64), 800u64..6000], prop_oneof![1 => Just(0u64), 1 => 500u64..20_000]),
        prop::collection::vec(step(), 1..90),
    );
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 150, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&histories, |(lengths, overheads, root, in_flight_max, steps)| {
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let mut pair = Pair::new(&fixture, lengths, overheads, root, in_flight_max).await;
            for step in &steps {
                pair.step(step).await;
            }
            if root {
                pair.drain().await;
            }
            fixture.lose_everything().await;
        });
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[tokio::test]
async fn a_chunk_that_came_back_is_given_before_a_new_one_and_to_the_member_that_finishes_first() {
    let fixture = Fixture::new().await;
    let mut pair = Pair::new(&fixture, vec![1000; 10], [100, 10, 40, 1], true, (0, 0)).await;
    pair.model.now += 1000;
    pair.step(&Step::Credits { member: 0, open: 2 }).await;
    pair.step(&Step::Leave { member: 0, bench_ms: 0 }).await;
    let answer = ready(fixture.live.credits(pair.from(2), 1, pair.now()).await);
    assert_eq!(answer.granted, [Grant { terminal: terminal(2), chunk: 0, kind: GrantKind::FirstCopy }]);
    // Chunk 1 is left over from member 0. Members 1 (10 ns) and 2 (40 ns) both have room, 2 already owes 1000 bytes.
    let answer = ready(fixture.live.credits(pair.from(1), 3, pair.now()).await);
    let chunks: Vec<u32> = answer.granted.iter().map(|grant| grant.chunk).collect();
    assert_eq!(chunks, [1, 2, 3]);
    assert!(answer.granted.iter().all(|grant| grant.terminal == terminal(1)));
    fixture.lose_everything().await;
}

#[tokio::test]
async fn nothing_is_given_before_the_wave_opens_and_what_was_asked_for_is_given_at_that_moment() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    assert!(ready(fixture.live.credits(pair.from(0), 2, at(499)).await).granted.is_empty());
    let given = ready(fixture.live.allocate(pair.group, pair.limits(), at(500)).await).granted;
    assert_eq!(given.iter().map(|grant| grant.chunk).collect::<Vec<_>>(), [0, 1]);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_stranger_is_given_nothing_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    assert_eq!(fixture.live.credits(pair.from(99), 4, at(1000)).await.unwrap(), Table::Stranger);
    assert_eq!(fixture.live.notices(pair.from(99), &[], at(1000)).await.unwrap(), Table::Stranger);
    assert_eq!(ready(fixture.live.credits(pair.from(0), 4, at(1000)).await).granted.len(), 4);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn the_origin_counts_the_first_sending_of_a_chunk_as_a_first_copy_and_every_other_as_a_repair() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    let (live, now) = (&fixture.live, at(1000));
    ready(live.credits(pair.from(0), 1, now).await);
    assert_eq!(live.fetch(pair.from(1), 0, now).await.unwrap(), Table::Ready(FetchRight::None));
    let Table::Ready(FetchRight::Granted { budget: Budget::First, marks }) = live.fetch(pair.from(0), 0, now).await.unwrap() else {
        panic!("the first sending is no first copy")
    };
    // Refused by the budget: the next try is the first one again.
    live.unfetch(pair.from(0), 0, &marks, now).await.unwrap();
    let first = live.fetch(pair.from(0), 0, now).await.unwrap();
    assert!(matches!(first, Table::Ready(FetchRight::Granted { budget: Budget::First, .. })));
    let again = live.fetch(pair.from(0), 0, now).await.unwrap();
    assert!(matches!(again, Table::Ready(FetchRight::Granted { budget: Budget::Repair, .. })));
    // The grant's fetch and two more, however long it takes; keeping the lease and what was not sent count for nothing.
    live.renew_lease(pair.from(0), 0, now).await.unwrap();
    for _ in 0..2 {
        let Table::Ready(FetchRight::Granted { marks, .. }) = live.fetch(pair.from(0), 0, now).await.unwrap() else {
            panic!("a third fetch is refused")
        };
        live.unfetch(pair.from(0), 0, &marks, now).await.unwrap();
    }
    let third = live.fetch(pair.from(0), 0, now).await.unwrap();
    assert!(matches!(third, Table::Ready(FetchRight::Granted { budget: Budget::Repair, .. })));
    assert_eq!(live.fetch(pair.from(0), 0, now).await.unwrap(), Table::Ready(FetchRight::None));
    // Received: the lease is over.
    let notice = ChunkNotice { chunk: 0, received_at: TimestampMs(0), copies_done_at: None };
    ready(live.notices(pair.from(0), &[notice], now).await);
    assert_eq!(live.fetch(pair.from(0), 0, now).await.unwrap(), Table::Ready(FetchRight::None));
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_grant_is_pushed_in_the_step_that_makes_it() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    fixture.set_present(terminal(0), false).await;
    let attached = fixture.live.attach(terminal(0), "t", at(1000)).await.unwrap();
    ready(fixture.live.credits(pair.from(0), 2, at(1000)).await);
    let Pushes::Next(pushes) = fixture.live.pushes(terminal(0), "t", attached.end, at(1000)).await.unwrap() else { panic!("no pushes") };
    let expires_at = crate::clock::to_timestamp_ms(at(16_000));
    let grant = protocol::ws::PushMessage::Grant {
        swarm_id: SwarmId::from_bytes([8; 16]),
        kind: GrantKind::FirstCopy,
        chunks: vec![0, 1],
        expires_at,
    };
    assert_eq!(pushes.into_iter().map(|(_, message)| message).collect::<Vec<_>>(), [grant]);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn who_fetches_and_does_not_sign_is_given_and_sent_nothing_more_until_it_signs() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 20], [10; 4], true, (0, 0)).await;
    let (live, now) = (&fixture.live, at(1000));
    let given = ready(live.credits(pair.from(0), 10, now).await);
    assert_eq!((given.granted.len(), given.outcome), (10, vec![]));
    for chunk in 0..UNSIGNED_MAX {
        assert!(matches!(live.fetch(pair.from(0), chunk, now).await.unwrap(), Table::Ready(FetchRight::Granted { .. })), "chunk {chunk}");
    }
    let owed: Vec<u32> = (0..UNSIGNED_MAX).collect();
    assert_eq!(live.fetch(pair.from(0), 7, now).await.unwrap(), Table::Ready(FetchRight::Unsigned(owed.clone())));
    assert!(matches!(live.fetch(pair.from(0), 5, now).await.unwrap(), Table::Ready(FetchRight::Granted { .. })), "the same one again");
    let asked = ready(live.credits(pair.from(0), 4, now).await);
    assert_eq!((asked.granted, asked.outcome), (vec![], owed));
    assert_eq!(ready(live.credits(pair.from(1), 4, now).await).granted.len(), 4, "the others go on");
    live.signed(pair.from(0), [3], false, now).await.unwrap();
    let Table::Ready(FetchRight::Granted { marks, .. }) = live.fetch(pair.from(0), 7, now).await.unwrap() else { panic!("it has signed") };
    // What was not sent need not be signed for.
    live.unfetch(pair.from(0), 7, &marks, now).await.unwrap();
    assert_eq!(ready(live.credits(pair.from(0), 2, now).await).granted.len(), 2);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_group_that_the_origin_does_not_feed_waits_for_the_one_that_it_does_and_is_then_charged_as_the_first() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    let root = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    let below = GroupId::from_bytes([9; 16]);
    let members = (0..2).map(|member| (terminal(10 + member), 10)).collect();
    let spec = GroupSpec {
        group: below,
        swarm: SwarmId::from_bytes([8; 16]),
        root: false,
        opens_at: at(500),
        keep_until: OffsetDateTime::now_utc() + Duration::from_secs(600),
        chunk_lengths: vec![1000; 4],
        members,
    };
    live.create_group(&spec, at(0)).await.unwrap();
    fixture.set_present(terminal(10), true).await;
    let from = Sender { group: below, terminal: terminal(10), limits: root.limits() };
    let affordable = Affordable { again: Bytes(1_000), first: Bytes(4_000), doubled: Bytes(1_000) };
    let missing = async |ms, feeders_connected, chunk| {
        let chunks = BTreeMap::from([(chunk, false)]);
        let answer = ready(live.missing(from, affordable, Wanted { chunks: &chunks, feeders_connected }, at(ms)).await);
        assert_eq!(answer.granted.len() + answer.outcome.elsewhere.len(), 1, "{answer:?}");
        !answer.granted.is_empty()
    };
    ready(live.credits(root.from(0), 2, at(1_000)).await);
    // For as long as the root fetches, and from each fetch as long as a lease lasts.
    assert!(!missing(6_000, true, 3).await);
    assert!(!missing(12_000, true, 3).await, "asking for long does not help");
    assert!(matches!(live.fetch(root.from(0), 0, at(13_000)).await.unwrap(), Table::Ready(FetchRight::Granted { .. })));
    assert!(!missing(27_999, true, 3).await);
    assert!(missing(28_000, true, 3).await);
    // Nobody is there who could fetch it.
    assert!(missing(13_500, false, 2).await);
    // What the root was sent and lost is a repair, as ever.
    assert!(missing(13_500, true, 0).await);
    let budget = async |from, chunk| {
        let Table::Ready(FetchRight::Granted { budget, .. }) = live.fetch(from, chunk, at(28_100)).await.unwrap() else {
            panic!("no lease")
        };
        budget
    };
    assert_eq!(budget(from, 3).await, Budget::First);
    assert_eq!(budget(from, 0).await, Budget::Repair);
    // The root group's own copy of it is not the first of the swarm any more.
    fixture.set_present(terminal(0), true).await;
    let given = ready(live.credits(root.from(0), 4, at(28_100)).await).granted;
    assert!(given.iter().any(|grant| grant.chunk == 3), "{given:?}");
    assert_eq!(budget(root.from(0), 3).await, Budget::Repair);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn what_a_live_terminal_has_is_sent_again_only_out_of_its_part_of_the_budget() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    ready(live.credits(pair.from(0), 2, at(1_000)).await);
    for chunk in [0, 1] {
        live.fetch(pair.from(0), chunk, at(1_000)).await.unwrap();
        let notice = ChunkNotice { chunk, received_at: TimestampMs(2_000), copies_done_at: None };
        ready(live.notices(pair.from(0), &[notice], at(2_000)).await);
    }
    let missing = async |ms, doubled| {
        let chunks = BTreeMap::from([(0, true), (1, true)]);
        let affordable = Affordable { again: Bytes(4_000), first: Bytes(8_000), doubled: Bytes(doubled) };
        let answer = ready(live.missing(pair.from(1), affordable, Wanted { chunks: &chunks, feeders_connected: true }, at(ms)).await);
        let granted: Vec<u32> = answer.granted.iter().map(|grant| grant.chunk).collect();
        (granted, answer.outcome)
    };
    let elsewhere = |chunks: &[u32]| Missing { elsewhere: chunks.to_vec(), unaffordable: vec![] };
    assert_eq!(missing(3_000, 4_000).await, (vec![], elsewhere(&[0, 1])), "the other one has them");
    let spent = |chunks: &[u32]| Missing { elsewhere: vec![], unaffordable: chunks.to_vec() };
    assert_eq!(missing(9_000, 999).await, (vec![], spent(&[0, 1])), "they are to come from there for good");
    assert_eq!(missing(9_500, 1_999).await, (vec![0], spent(&[1])));
    // What was given of that part and not fetched is there again.
    ready(live.leave(pair.from(1), Duration::ZERO, at(9_550)).await);
    assert_eq!(missing(9_560, 1_999).await, (vec![1], elsewhere(&[0])));
    // What somebody says that it holds and was never sent is a first copy, which that part is not there for.
    let lie = ChunkNotice { chunk: 3, received_at: TimestampMs(14_800), copies_done_at: None };
    ready(live.notices(pair.from(0), &[lie], at(14_800)).await);
    let affordable = Affordable { again: Bytes(0), first: Bytes(4_000), doubled: Bytes(0) };
    let chunks = BTreeMap::from([(3, false)]);
    let wanted = Wanted { chunks: &chunks, feeders_connected: true };
    assert_eq!(ready(live.missing(pair.from(1), affordable, wanted, at(14_900)).await).outcome, elsewhere(&[3]));
    assert_eq!(ready(live.missing(pair.from(1), affordable, wanted, at(20_000)).await).granted.len(), 1);
    fixture.lose_everything().await;
}
