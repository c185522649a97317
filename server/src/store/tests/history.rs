//! Random histories of everything that moves money, with a crash at any commit, beside a model of plain numbers: after each operation both say the same.

mod model;

use std::collections::BTreeMap;

use protocol::bitmap::{ChunkSet, SEGMENT_BYTES};
use protocol::receipt::{Receipt, ReceiptBody};
use protocol::rest::{Application, ApplicationState, ChangeApplication, NewApplication, RelayDuty, Release};
use protocol::{Bytes, ContentId, DeliveryId, EditionId, ErrorCode, ReleaseId, Signature, TerminalId, TimestampMs, UserId};
use time::{Duration, OffsetDateTime};

use self::model::{DUTY_MS, Model, ModelApplication, ModelDelivery, ModelRelease, Stage};
use super::fixture::{CHUNKS, START, World, eur, new_release, request};
use crate::clock::to_timestamp_ms;
use crate::store::idempotency::{Answer, Idempotency};
use crate::store::lifecycle::CancelledBy;
use crate::store::receipts::{ReceiptWrite, VerifiedWrite};
use crate::store::{Store, StoreError};

/// A connection that writes anything while this is armed dies as it commits.
const CRASHES: &str = "
    CREATE TABLE crash (armed boolean NOT NULL);
    INSERT INTO crash VALUES (false);
    CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT armed FROM crash) THEN
            PERFORM pg_terminate_backend(pg_backend_pid());
        END IF;
        RETURN NULL;
    END $$;
    DO $$
    DECLARE
        written text;
    BEGIN
        FOREACH written IN ARRAY ARRAY['idempotency_keys', 'transfers', 'entries', 'holds', 'hold_resolutions', 'applications', 'deliveries', 'receipts',
            'releases', 'delivery_shares', 'duties']
        LOOP
            EXECUTE format('CREATE CONSTRAINT TRIGGER zz_crash AFTER INSERT OR UPDATE ON %I DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
                EXECUTE FUNCTION crash()', written);
        END LOOP;
    END $$;";

/// Users, each with two terminals. Few, so that they are in each other's way.
const USERS: usize = 6;
/// Releases that have not ended.
const RELEASES_MAX: usize = 3;
/// Of one release that is open; more would only take the oracle longer.
const APPLICATIONS_MAX: usize = 9;
/// The release's own times; each of its operations happens at one of them, whatever the time of another release is.
const CLOSES_AFTER: Duration = Duration::minutes(10);
const STARTS_AFTER: Duration = Duration::minutes(20);

/// What happens to the instance during an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    /// It dies as it commits; the operation is tried again.
    DiesBefore,
    /// It dies after it has committed and before it has answered; the operation is tried again.
    DiesAfter,
}

/// Numbers drawn from a seed.
struct Draw(blake3::OutputReader);

impl Draw {
    fn of(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    fn below(&mut self, bound: u32) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes) % bound
    }

    /// An index.
    fn place(&mut self, length: usize) -> usize {
        self.below(u32::try_from(length).unwrap()) as usize
    }

    fn one_of<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.place(items.len())].clone()) }
    }
}

/// A request as it was sent, and what it was answered.
#[derive(Clone)]
struct Sent {
    request: Idempotency,
    what: Request,
    at: OffsetDateTime,
    answered: serde_json::Value,
}

#[derive(Clone, Debug)]
enum Request {
    Redeem(String),
    Apply(ReleaseId, NewApplication),
    Change(protocol::ApplicationId, u32, ChangeApplication),
    Withdraw(protocol::ApplicationId),
    Cancel(ReleaseId),
    Abort(ReleaseId),
}

struct History {
    world: World,
    model: Model,
    draw: Draw,
    publisher: UserId,
    content: ContentId,
    editions: Vec<EditionId>,
    users: Vec<UserId>,
    vouchers: Vec<(String, u64, bool)>,
    sent: Vec<Sent>,
    /// How often each kind of operation was done, and how often it was refused.
    done: BTreeMap<&'static str, (u32, u32)>,
    crashes: u32,
    clock: OffsetDateTime,
    /// Looks that were claimed; each is due for whoever asks a minute later than the one before.
    looks: i64,
}

impl History {
    async fn begin(seed: &str) -> Self {
        let world = World::new().await;
        let (publisher, content, editions) = world.content(1).await;
        let mut history = Self {
            world,
            model: Model::default(),
            draw: Draw::of(seed),
            publisher,
            content,
            editions,
            users: Vec::new(),
            vouchers: Vec::new(),
            sent: Vec::new(),
            done: BTreeMap::new(),
            crashes: 0,
            clock: START,
            looks: 0,
        };
        for _ in 0..USERS {
            let user = history.world.user().await;
            for _ in 0..2 {
                let terminal = history.world.terminal(user).await;
                history.model.owners.insert(terminal, user);
            }
            history.model.purse(user);
            history.users.push(user);
        }
        history.world.store.tamper(CRASHES).await;
        history
    }

    fn fate(&mut self) -> Fate {
        match self.draw.below(8) {
            0 => Fate::DiesBefore,
            1 => Fate::DiesAfter,
            _ => Fate::Lives,
        }
    }

    fn note(&mut self, kind: &'static str, refused: bool) {
        let (done, refusals) = self.done.entry(kind).or_default();
        *done += 1;
        *refusals += u32::from(refused);
    }

    /// Carries a piece of work out as `fate` has it; the last attempt counts.
    async fn attempt<T>(&mut self, fate: Fate, work: impl AsyncFn(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let store = &self.world.store;
        match fate {
            Fate::Lives => {}
            Fate::DiesBefore => {
                store.tamper("UPDATE crash SET armed = true").await;
                let died = work(store).await;
                store.tamper("UPDATE crash SET armed = false").await;
                match died {
                    Err(error) if error.code() == ErrorCode::Unavailable => self.crashes += 1,
                    // Nothing was written.
                    answered => return answered,
                }
            }
            Fate::DiesAfter => drop(work(store).await),
        }
        work(&self.world.store).await
    }

    async fn send(&mut self, user: UserId, what: Request, at: OffsetDateTime) -> Result<Answer, ErrorCode> {
        let (request, fate) = (request(user), self.fate());
        let answer = self.attempt(fate, async |store| perform(store, &request, &what, at).await).await;
        match answer {
            Ok(answer) => {
                self.sent.push(Sent { request, what, at, answered: answer.body.clone() });
                Ok(answer)
            }
            Err(error) => Err(error.code()),
        }
    }

    async fn step(&mut self) {
        self.clock += Duration::milliseconds(1);
        match self.draw.below(100) {
            0..10 => self.redeem().await,
            10..14 => self.schedule().await,
            14..38 => self.apply().await,
            38..46 => self.change().await,
            46..50 => self.withdraw().await,
            50..54 => self.close().await,
            54..58 => self.start().await,
            58..78 => self.deliver().await,
            78..88 => self.settle().await,
            88..90 => self.end_early().await,
            90..92 => self.finish().await,
            92..96 => self.look().await,
            _ => self.retry().await,
        }
        self.compare().await;
    }

    async fn redeem(&mut self) {
        let user = self.draw.one_of(&self.users).unwrap();
        if self.vouchers.is_empty() || self.draw.below(4) > 0 {
            let value = u64::from(1 + self.draw.below(3_000));
            let code = self.world.voucher(value, None).await;
            self.vouchers.push((code, value, false));
        }
        let place = self.vouchers.len() - 1 - self.draw.place(self.vouchers.len().min(3));
        let (code, value, used) = self.vouchers[place].clone();
        let answer = self.send(user, Request::Redeem(code), self.clock).await;
        self.note("redeem", used);
        if used {
            assert_eq!(answer, Err(ErrorCode::VoucherUsed));
            return;
        }
        answer.unwrap();
        self.vouchers[place].2 = true;
        self.model.redeemed(user, value);
    }

    fn running(&self, stage: Stage) -> Vec<usize> {
        (0..self.model.releases.len()).filter(|&release| self.model.releases[release].stage == stage).collect()
    }

    async fn schedule(&mut self) {
        if self.model.releases.iter().filter(|release| release.stage != Stage::Over).count() >= RELEASES_MAX {
            return;
        }
        let weights = [100, 60, 25].into_iter().take(1 + self.draw.place(3));
        let ranks: Vec<(u32, u32)> = weights.map(|weight| (weight, 1 + self.draw.below(3))).collect();
        let reserve = u64::from(self.draw.below(60));
        let deposits: Vec<u64> = ranks.iter().map(|_| u64::from(self.draw.below(2) * self.draw.below(300))).collect();
        let mut new = new_release(self.content, &self.editions, &ranks, reserve);
        for (rank, deposit) in new.ranks.iter_mut().zip(&deposits).filter(|(_, deposit)| **deposit > 0) {
            rank.duty = Some(RelayDuty { after_s: u32::try_from(DUTY_MS / 1_000).unwrap(), deposit: eur(*deposit) });
        }
        (new.opens_at, new.closes_at, new.starts_at) = (self.clock, self.clock + CLOSES_AFTER, self.clock + STARTS_AFTER);
        let release: Release = self.world.store.create_release(&new, &request(self.publisher), self.clock).await.unwrap().read().unwrap();
        self.note("schedule", false);
        self.model.releases.push(ModelRelease {
            id: release.id,
            stage: Stage::Open,
            reserve,
            ranks,
            deposits,
            applications: Vec::new(),
            deliveries: Vec::new(),
        });
    }

    async fn times(&self, release: usize) -> (OffsetDateTime, OffsetDateTime) {
        let release = self.world.store.release(self.model.releases[release].id).await.unwrap();
        (release.closes_at, release.starts_at)
    }

    async fn apply(&mut self) {
        // Now and then to one that is closed.
        let candidates = if self.draw.below(20) == 0 { self.running(Stage::Closed) } else { self.running(Stage::Open) };
        let Some(release) = self.draw.one_of(&candidates) else { return };
        if self.model.releases[release].applications.len() >= APPLICATIONS_MAX {
            return;
        }
        let terminals: Vec<TerminalId> = self.model.owners.keys().copied().collect();
        let terminal = self.draw.one_of(&terminals).unwrap();
        let (rank, maximum) = (1 + self.draw.below(4), u64::from(self.draw.below(1_500)));
        let expected = self.model.may_apply(release, terminal, rank, maximum);
        let user = self.model.owners[&terminal];
        let new = NewApplication { terminal_id: terminal, edition_id: self.editions[0], rank, maximum: eur(maximum) };
        let answer = self.send(user, Request::Apply(self.model.releases[release].id, new), self.clock).await;
        self.note("apply", expected.is_err());
        assert_eq!(answer.as_ref().map(|_| &()), expected.as_ref(), "rank {rank}, at most {maximum}");
        let Ok(answer) = answer else { return };
        let made: Application = answer.read().unwrap();
        let (id, bid_id) = (made.id, made.bid_id);
        let (applied_at, state) = (to_timestamp_ms(self.clock), ApplicationState::Active);
        let deposit = self.model.releases[release].deposit_from(rank);
        assert_eq!(made.deposit.map_or(0, |deposit| deposit.amount.0), deposit);
        self.model.applied(release, ModelApplication { id, bid_id, user, terminal, rank, maximum, deposit, applied_at, state, version: 1 });
    }

    /// An application to a release that takes some, or now and then to one that takes none any more.
    fn any_application(&mut self) -> Option<(usize, usize)> {
        let stage = if self.draw.below(10) == 0 { Stage::Closed } else { Stage::Open };
        let release = self.draw.one_of(&self.running(stage))?;
        let count = self.model.releases[release].applications.len();
        (count > 0).then(|| (release, self.draw.place(count)))
    }

    async fn change(&mut self) {
        let Some((release, place)) = self.any_application() else { return };
        let (rank, maximum) = (1 + self.draw.below(4), u64::from(self.draw.below(2_000)));
        let application = self.model.releases[release].applications[place].clone();
        let version = application.version + u32::from(self.draw.below(10) == 0);
        let expected = self.model.may_change(release, place, version, rank, maximum);
        let change = ChangeApplication { edition_id: self.editions[0], rank, maximum: eur(maximum) };
        let answer = self.send(application.user, Request::Change(application.id, version, change), self.clock).await;
        self.note("change", expected.is_err());
        assert_eq!(answer.map(|_| ()), expected);
        if expected.is_ok() {
            self.model.changed(release, place, rank, maximum, to_timestamp_ms(self.clock));
        }
    }

    async fn withdraw(&mut self) {
        let Some((release, place)) = self.any_application() else { return };
        let application = self.model.releases[release].applications[place].clone();
        let expected = self.model.may_withdraw(release, place);
        let answer = self.send(application.user, Request::Withdraw(application.id), self.clock).await;
        self.note("withdraw", expected.is_err());
        assert_eq!(answer.map(|_| ()), expected);
        if expected.is_ok() {
            self.model.withdrawn(release, place);
        }
    }

    async fn close(&mut self) {
        let Some(release) = self.draw.one_of(&self.running(Stage::Open)) else { return };
        let (id, (closes, _), fate) = (self.model.releases[release].id, self.times(release).await, self.fate());
        self.attempt(fate, async |store| store.close_release(id, closes).await).await.unwrap();
        self.note("close", false);
        for (application, price, deposit) in self.model.closed(release) {
            let ModelApplication { user, terminal, .. } = *self.model.releases[release].application(application);
            let award = self.world.store.application(application, user).await.unwrap().award.expect("the model says that it has won");
            assert_eq!(award.price, eur(price));
            let delivery = ModelDelivery {
                id: award.delivery_id,
                user,
                terminal,
                price,
                chunks: [None; CHUNKS.len()],
                pending: true,
                deposit,
                completed_at: None,
                looks: Vec::new(),
            };
            self.model.releases[release].deliveries.push(delivery);
        }
    }

    async fn start(&mut self) {
        let Some(release) = self.draw.one_of(&self.running(Stage::Closed)) else { return };
        let (id, (_, starts), fate) = (self.model.releases[release].id, self.times(release).await, self.fate());
        self.attempt(fate, async |store| store.start_release(id, starts).await).await.unwrap();
        self.note("start", false);
        self.model.releases[release].stage = Stage::Live;
    }

    fn any_delivery(&mut self, stages: &[Stage]) -> Option<(usize, usize)> {
        let releases: Vec<usize> = stages.iter().flat_map(|stage| self.running(*stage)).collect();
        let release = self.draw.one_of(&releases)?;
        let count = self.model.releases[release].deliveries.len();
        (count > 0).then(|| (release, self.draw.place(count)))
    }

    /// Some chunks that have not arrived yet come from somebody.
    async fn deliver(&mut self) {
        let Some((release, place)) = self.any_delivery(&[Stage::Live]) else { return };
        let delivery = self.model.releases[release].deliveries[place].clone();
        let missing: Vec<u32> = (0..).zip(delivery.chunks).filter(|(_, source)| source.is_none()).map(|(chunk, _)| chunk).collect();
        let others = self.model.owners.keys().copied().filter(|terminal| *terminal != delivery.terminal);
        let sources: Vec<TerminalId> = others.chain([TerminalId::ORIGIN]).collect();
        let (Some(first), Some(source)) = (self.draw.one_of(&missing), self.draw.one_of(&sources)) else { return };
        if !delivery.pending {
            return;
        }
        let chunks: Vec<u32> = missing.into_iter().filter(|chunk| *chunk == first || self.draw.below(2) == 0).collect();
        let (fate, now) = (self.fate(), self.clock);
        self.attempt(fate, async |store| receive(store, delivery.id, delivery.terminal, source, &chunks, now).await).await.unwrap();
        self.note("deliver", false);
        let delivery = &mut self.model.releases[release].deliveries[place];
        for chunk in chunks {
            delivery.chunks[chunk as usize] = Some(source);
        }
        if delivery.chunks.iter().all(Option::is_some) {
            delivery.completed_at = Some(to_timestamp_ms(now));
        }
    }

    /// Somebody looks who of a release is connected, and ends the duties that are due.
    async fn look(&mut self) {
        self.clock += Duration::milliseconds(i64::from(self.draw.below(1_500)));
        self.looks += 1;
        let (now, due) = (self.clock, self.clock + Duration::days(1) + Duration::minutes(self.looks));
        let Some(watch) = self.world.store.claim_duty_watch(due).await.unwrap() else { return };
        let release = self.model.releases.iter().position(|release| release.id == watch.release_id).unwrap();
        let duties = self.world.store.open_duties(watch.release_id, None, 100).await.unwrap();
        let mut seen = Vec::new();
        for duty in &duties {
            let is_there = self.draw.below(3) > 0;
            let of = &mut self.model.releases[release].deliveries;
            let delivery = of.iter_mut().find(|delivery| delivery.id == duty.delivery_id).unwrap();
            delivery.looks.push((to_timestamp_ms(now), is_there));
            seen.push((*duty, duty.presence.after(watch.look(now), &duty.duty, is_there)));
        }
        let fate = self.fate();
        self.attempt(fate, async |store| store.write_presences(&seen).await).await.unwrap();
        for duty in duties {
            let place = self.model.releases[release].deliveries.iter().position(|delivery| delivery.id == duty.delivery_id).unwrap();
            let is_due = self.model.duty_is_due(release, place, to_timestamp_ms(now));
            assert_eq!(duty.is_due(watch.state, now), is_due, "{duty:?} of a release that is {:?}", watch.state);
            if is_due {
                let fate = self.fate();
                let ended = self.attempt(fate, async |store| store.end_duty(duty.delivery_id, now).await).await.unwrap();
                assert_eq!(ended.is_some(), fate != Fate::DiesAfter, "once");
                self.model.duty_ended(release, place, to_timestamp_ms(now));
                self.note(if ended.is_some_and(|outcome| outcome.forfeited.0 > 0) { "duty missed" } else { "duty ended" }, false);
            }
        }
        self.world.store.finish_look(watch.release_id, now, now).await.unwrap();
        self.note("look", false);
    }

    fn missing(&self) -> Option<&'static str> {
        KINDS.into_iter().find(|kind| !self.done.contains_key(kind))
    }

    /// As the server settles: when all is there, or as far as it came at the end.
    async fn settle(&mut self) {
        let Some((release, place)) = self.any_delivery(&[Stage::Live, Stage::Aborted]) else { return };
        let delivery = self.model.releases[release].deliveries[place].clone();
        let last_call = self.model.releases[release].stage == Stage::Aborted || self.draw.below(2) == 0;
        let (fate, now) = (self.fate(), self.clock);
        let settled = self.attempt(fate, async |store| {
            if last_call && let Some(settled) = store.release_delivery(delivery.id, now).await? {
                return Ok(Some(settled));
            }
            store.settle_delivery(delivery.id, &CHUNKS, now, last_call).await
        });
        let settled = settled.await.unwrap();
        let due = delivery.pending && (last_call || delivery.chunks.iter().all(Option::is_some));
        self.note("settle", !due);
        assert_eq!(settled.is_some(), due && fate != Fate::DiesAfter, "once, and when it is due");
        if due {
            self.model.settled(release, place);
        }
    }

    /// Cancelled before its start, aborted after.
    async fn end_early(&mut self) {
        let candidates = [Stage::Open, Stage::Closed, Stage::Live].map(|stage| self.running(stage)).concat();
        let Some(release) = self.draw.one_of(&candidates) else { return };
        let (id, stage) = (self.model.releases[release].id, self.model.releases[release].stage);
        let (closes, starts) = self.times(release).await;
        if stage == Stage::Live {
            self.send(self.publisher, Request::Abort(id), starts).await.unwrap();
            self.model.releases[release].stage = Stage::Aborted;
            self.note("abort", false);
        } else {
            self.send(self.publisher, Request::Cancel(id), closes).await.unwrap();
            self.model.cancelled(release);
            self.note("cancel", false);
        }
    }

    async fn finish(&mut self) {
        let candidates = [Stage::Live, Stage::Aborted].map(|stage| self.running(stage)).concat();
        let Some(release) = self.draw.one_of(&candidates) else { return };
        let (id, (_, starts), fate) = (self.model.releases[release].id, self.times(release).await, self.fate());
        let finished = self.attempt(fate, async |store| store.finish_release(id, starts).await).await.unwrap();
        let over = self.model.releases[release].deliveries.iter().all(|delivery| !delivery.pending);
        self.note("finish", !over);
        let live = self.model.releases[release].stage == Stage::Live;
        assert_eq!(finished, over && live && fate != Fate::DiesAfter);
        if over {
            self.model.releases[release].stage = Stage::Over;
        }
    }

    /// A request that was answered comes once more, at any later time.
    async fn retry(&mut self) {
        let Some(sent) = self.draw.one_of(&self.sent) else { return };
        let answer = perform(&self.world.store, &sent.request, &sent.what, sent.at).await.unwrap();
        assert!(answer.replayed, "{:?} was done twice", sent.what);
        assert_eq!(answer.body, sent.answered, "{:?}", sent.what);
        self.note("retry", false);
    }

    /// Every balance is what the model says.
    async fn compare(&self) {
        let rows: Vec<(uuid::Uuid, i64, i64)> =
            sqlx::query_as("SELECT user_id, posted, held FROM wallets JOIN accounts ON id = account_id")
                .fetch_all(self.world.store.raw())
                .await
                .unwrap();
        let stored: BTreeMap<UserId, (i64, i64)> = rows.into_iter().map(|(user, posted, held)| (UserId(user), (posted, held))).collect();
        for (user, purse) in &self.model.purses {
            let found = stored.get(user).copied().unwrap_or_default();
            assert_eq!(found, (purse.posted, purse.held), "posted and held of {user} after {:?}", self.done);
        }
        let totals = self.world.store.ledger_totals().await.unwrap();
        let found = (totals.sum.amount, totals.publishers.amount, totals.platform.amount, totals.vouchers_issued.amount);
        assert_eq!(found, (0, self.model.publisher, self.model.platform, self.model.vouchers_issued));
        assert_eq!(totals.held.amount, self.model.purses.values().map(|purse| purse.held).sum::<i64>());
    }
}

async fn perform(store: &Store, request: &Idempotency, what: &Request, at: OffsetDateTime) -> Result<Answer, StoreError> {
    let publisher = CancelledBy::Publisher(request.user_id);
    match what {
        Request::Redeem(code) => store.redeem_voucher(code, request, at).await,
        Request::Apply(release, new) => store.apply(*release, new, request, at).await,
        Request::Change(id, version, change) => store.change_application(*id, *version, change, request, at).await,
        Request::Withdraw(id) => store.withdraw_application(*id, request, at).await,
        Request::Cancel(release) => store.cancel_release(*release, publisher, request, at).await,
        Request::Abort(release) => store.abort_release(*release, publisher, request, at).await,
    }
}

/// Records that the receiver has signed for these chunks of a source, beside what it had signed before.
async fn receive(
    store: &Store,
    delivery_id: DeliveryId,
    receiver: TerminalId,
    source: TerminalId,
    chunks: &[u32],
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let fresh: ChunkSet = chunks.iter().copied().collect();
    let bytes = |chunks: &ChunkSet| -> u64 {
        (0u32..).zip(CHUNKS).filter(|(chunk, _)| chunks.contains(*chunk)).map(|(_, length)| u64::from(length)).sum()
    };
    store
        .update_receipts(&[(delivery_id, 0)].into(), now, |recorded| {
            let known = recorded.receipts.get(&delivery_id).into_iter().flatten();
            let mut all: ChunkSet = fresh.clone();
            let mut of_source = fresh.clone();
            for receipt in known {
                all.insert_segment(0, &receipt.credited);
                if receipt.source == source {
                    of_source.insert_segment(0, &receipt.credited);
                }
            }
            let bitmap: Box<[u8; SEGMENT_BYTES]> = Box::new(of_source.segment(0));
            let sequence = of_source.len();
            let body = ReceiptBody { delivery_id, source, receiver, segment: 0, sequence, at: TimestampMs(0), bitmap: bitmap.clone() };
            let receipt = Receipt { body, signature: Signature([0; 64]) };
            let write = ReceiptWrite { receipt, bitmap: bitmap.clone(), credited: bitmap, credited_bytes: Bytes(bytes(&of_source)) };
            let complete = all.len() as usize == CHUNKS.len();
            (vec![write], vec![VerifiedWrite { delivery_id, chunks: all.len(), bytes: Bytes(bytes(&all)), complete }], ())
        })
        .await
}

/// What every history must have met.
const KINDS: [&str; 16] = [
    "redeem",
    "schedule",
    "apply",
    "change",
    "withdraw",
    "close",
    "start",
    "deliver",
    "settle",
    "cancel",
    "abort",
    "finish",
    "retry",
    "look",
    "duty missed",
    "duty ended",
];

/// `SPILLWAY_SEED` replays a history. One that has not met every kind yet goes on.
#[tokio::test]
async fn a11_random_histories_with_crashes_at_their_commits_leave_the_balances_that_a_simple_model_has() {
    const OPERATIONS: u32 = 2_000;
    let seed = std::env::var("SPILLWAY_SEED").unwrap_or_else(|_| uuid::Uuid::new_v4().simple().to_string());
    println!("SPILLWAY_SEED={seed}");
    let mut history = History::begin(&seed).await;
    let mut operations = 0;
    while operations < OPERATIONS || (history.missing().is_some() && operations < 5 * OPERATIONS) {
        history.step().await;
        operations = history.done.values().map(|(done, _)| done).sum::<u32>();
    }
    history.world.store.assert_books_balance().await;
    println!("operations (of them refused): {:?}; {} connections died at a commit", history.done, history.crashes);
    assert_eq!(history.missing(), None, "{:?}", history.done);
    assert!(history.crashes > 20, "{}", history.crashes);
}
