//! Many workers over the same wallets at once: nothing is lost, doubled or overdrawn, and nobody is told of a deadlock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use protocol::rest::{Application, ApplicationState, ChangeApplication, NewApplication, Release};
use protocol::{Amount, ErrorCode, TerminalId, UserId};

use super::fixture::{START, STARTS, World, after, eur, request};
use crate::store::idempotency::Answer;
use crate::store::testing::crowd::{Crowd, numbered};
use crate::store::{Store, StoreError};

const WORKERS: u32 = 64;
const CROWD: Crowd = Crowd { deliveries: 20_000, wallets: 1_000, price: Amount(1_000), edition_chunks: 8, chunk_bytes: 65_536 };
const RELEASES: u32 = 8;

/// What a worker was told: what it moved between wallets, and how often it was refused for want of money or because another one was first.
#[derive(Default)]
struct Told {
    moved: BTreeMap<UserId, i64>,
    platform: i64,
    publisher: i64,
    issued: i64,
    done: u32,
    refused: u32,
}

impl Told {
    fn add(&mut self, user: UserId, amount: i64) {
        *self.moved.entry(user).or_default() += amount;
    }

    /// An answer, if it was not one of the refusals that are to be expected here.
    fn expect<T>(&mut self, answer: Result<T, StoreError>, refusals: &[ErrorCode]) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.done += 1;
                Some(answer)
            }
            Err(error) if refusals.contains(&error.code()) => {
                self.refused += 1;
                None
            }
            Err(error) => panic!("a client is told {}: {error:?}", error.code()),
        }
    }
}

struct Stage {
    world: World,
    releases: Vec<Release>,
    /// Each is tried by whoever draws it.
    vouchers: Vec<(String, u64)>,
    next_voucher: AtomicU32,
    begun: Instant,
    until: Until,
}

/// When a worker ends.
#[derive(Debug, Clone, Copy)]
enum Until {
    Operations(u32),
    Time(Duration),
}

struct Worker {
    stage: Arc<Stage>,
    draw: blake3::OutputReader,
    told: Told,
}

impl Worker {
    fn below(&mut self, bound: u32) -> u32 {
        let mut bytes = [0; 4];
        self.draw.fill(&mut bytes);
        u32::from_le_bytes(bytes) % bound
    }

    async fn run(mut self) -> Told {
        for operation in 0.. {
            let goes_on = match self.stage.until {
                Until::Operations(count) => operation < count,
                Until::Time(lasting) => self.stage.begun.elapsed() < lasting,
            };
            if !goes_on {
                break;
            }
            match self.below(10) {
                0..6 => self.settle().await,
                6..8 => self.bid().await,
                8 => self.redeem().await,
                _ => self.sweep().await,
            }
        }
        self.told
    }

    fn store(&self) -> Store {
        self.stage.world.store.clone()
    }

    /// Any delivery; often another worker has just settled it, or is about to.
    async fn settle(&mut self) {
        let lengths = [CROWD.chunk_bytes; CROWD.edition_chunks as usize];
        let number = self.below(CROWD.deliveries);
        let settled = self.store().settle_delivery(Crowd::delivery(number), &lengths, after(STARTS, 1), true).await;
        let Some(Some(settled)) = self.told.expect(settled, &[]) else { return };
        self.told.add(CROWD.payer(number), -signed(settled.charged));
        for share in settled.shares.iter().filter(|share| !share.source.is_origin()) {
            self.told.add(owner_of(share.source), signed(share.earned));
        }
        self.told.platform += signed(settled.fee);
        self.told.publisher += signed(settled.publisher);
    }

    /// Applies, changes the application, and takes it back.
    async fn bid(&mut self) {
        let place = self.below(RELEASES) as usize;
        let release = self.stage.releases[place].clone();
        let terminal = self.below(CROWD.deliveries);
        let (user, terminal_id) = (CROWD.payer(terminal), TerminalId(numbered(3, terminal)));
        let edition_id = release.editions[0].edition_id;
        let refusals = [ErrorCode::InsufficientFunds, ErrorCode::AlreadyApplied];
        let new = NewApplication { terminal_id, edition_id, rank: 1, maximum: eur(u64::from(1 + self.below(3_000))) };
        let made = self.store().apply(release.id, &new, &request(user), START).await;
        let Some(made) = self.told.expect(made, &refusals).map(|answer: Answer| answer.read::<Application>().unwrap()) else { return };
        let change = ChangeApplication { edition_id, rank: 1, maximum: eur(u64::from(1 + self.below(3_000))) };
        let changed = self.store().change_application(made.id, made.version, &change, &request(user), START).await;
        self.told.expect(changed, &refusals);
        if self.below(4) > 0 {
            let withdrawn = self.store().withdraw_application(made.id, &request(user), START).await;
            let withdrawn: Option<Application> = self.told.expect(withdrawn, &[]).map(|answer| answer.read().unwrap());
            assert_eq!(withdrawn.unwrap().state, ApplicationState::Withdrawn);
        }
    }

    /// Two users at once with the same voucher.
    async fn redeem(&mut self) {
        let place = self.stage.next_voucher.fetch_add(1, Ordering::Relaxed);
        let Some((code, value)) = self.stage.vouchers.get(place as usize).cloned() else { return };
        let users = [self.below(CROWD.wallets), self.below(CROWD.wallets)].map(Crowd::user);
        let store = self.store();
        let requests = users.map(request);
        let (first, second) =
            tokio::join!(store.redeem_voucher(&code, &requests[0], START), store.redeem_voucher(&code, &requests[1], START));
        let mut redeemed = 0;
        for (user, answer) in users.into_iter().zip([first, second]) {
            if self.told.expect(answer, &[ErrorCode::VoucherUsed]).is_some() {
                self.told.add(user, i64::try_from(value).unwrap());
                self.told.issued -= i64::try_from(value).unwrap();
                redeemed += 1;
            }
        }
        assert_eq!(redeemed, 1, "a voucher is redeemed once");
    }

    /// What goes on beside: statements are read, and now and then balances are rolled up.
    async fn sweep(&mut self) {
        let user = Crowd::user(self.below(CROWD.wallets));
        let wallet = self.store().wallet(user).await;
        self.told.expect(wallet, &[]);
        if self.below(50) == 0 {
            let rolled = self.store().roll_up_balances().await;
            self.told.expect(rolled, &[ErrorCode::Unavailable]);
        }
    }
}

fn signed(amount: Amount) -> i64 {
    i64::try_from(amount.0).unwrap()
}

/// Terminal k of the crowd is numbered (3, k).
fn owner_of(terminal: TerminalId) -> UserId {
    let number = u32::try_from(terminal.0.as_u128() & u128::from(u32::MAX)).unwrap();
    CROWD.payer(number)
}

async fn contend(until: Until) {
    let world = World::new().await;
    world.store.make_crowd(&CROWD).await.unwrap();
    let mut releases = Vec::new();
    for _ in 0..RELEASES {
        releases.push(world.release(&[(100, 1_000)], 0).await);
    }
    let operator = world.user_with("operator").await;
    let mut vouchers = Vec::new();
    for value in 1..=2 {
        let new = protocol::rest::NewVouchers { count: 1_000, value: eur(value * 700), expires_at: None };
        let made: protocol::rest::Vouchers = world.store.create_vouchers(&new, &request(operator), START).await.unwrap().read().unwrap();
        vouchers.extend(made.codes.into_iter().map(|code| (code, value * 700)));
    }
    let before = balances(&world.store).await;
    let totals_before = world.store.ledger_totals().await.unwrap();
    let stage = Arc::new(Stage { world, releases, vouchers, next_voucher: AtomicU32::new(0), begun: Instant::now(), until });
    let seed = uuid::Uuid::new_v4();
    println!("seed {seed}");
    let workers = (0..WORKERS).map(|number| {
        let draw = blake3::Hasher::new().update(format!("{seed}/{number}").as_bytes()).finalize_xof();
        tokio::spawn(Worker { stage: Arc::clone(&stage), draw, told: Told::default() }.run())
    });
    let mut all = Told::default();
    for worker in workers.collect::<Vec<_>>() {
        let told = worker.await.unwrap();
        told.moved.into_iter().for_each(|(user, amount)| all.add(user, amount));
        all.platform += told.platform;
        all.publisher += told.publisher;
        all.issued += told.issued;
        all.done += told.done;
        all.refused += told.refused;
    }
    println!("{} operations by {WORKERS} workers, {} of them refused", all.done + all.refused, all.refused);
    let mut expected = before;
    all.moved.iter().for_each(|(user, amount)| *expected.entry(*user).or_default() += amount);
    let store = &stage.world.store;
    assert_eq!(balances(store).await, expected, "what the workers were told is what was posted");
    let totals = store.ledger_totals().await.unwrap();
    let moved = [
        totals.platform.amount - totals_before.platform.amount,
        totals.publishers.amount - totals_before.publishers.amount,
        totals.vouchers_issued.amount - totals_before.vouchers_issued.amount,
    ];
    assert_eq!(moved, [all.platform, all.publisher, all.issued]);
    store.assert_books_balance().await;
    let overdrawn: i64 =
        sqlx::query_scalar("SELECT count(*) FROM wallets WHERE posted - held < 0 OR held < 0").fetch_one(store.raw()).await.unwrap();
    assert_eq!(overdrawn, 0);
}

async fn balances(store: &Store) -> BTreeMap<UserId, i64> {
    let rows: Vec<(uuid::Uuid, i64)> =
        sqlx::query_as("SELECT user_id, posted FROM wallets JOIN accounts ON id = account_id").fetch_all(store.raw()).await.unwrap();
    rows.into_iter().map(|(user, posted)| (UserId(user), posted)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_sixty_four_workers_over_a_thousand_wallets_lose_and_double_nothing() {
    contend(Until::Operations(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: the same for 60 seconds"]
async fn a11_measured_sixty_four_workers_over_a_thousand_wallets_lose_and_double_nothing() {
    contend(Until::Time(Duration::from_secs(60))).await;
}
