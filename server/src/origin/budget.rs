//! This instance's part of the origin budgets: blocks reserved in Postgres and not sent yet, and what was sent and is not written down yet.
//!
//! A block ([`crate::store::budget::OriginBudget::block`]) takes few enough statements, and is little enough to lose when an instance dies. What is left
//! of one goes back when the release has been quiet for [`QUIET_FOR`], so that another instance can use it, and at a stop.
//!
//! Bytes are [`Taken`] before a chunk is sent, and count as sent piece by piece as they are handed to the connection, however many of them the client
//! reads. What was not handed over is free again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::Bytes;
use tokio::time::Instant;

use crate::live::Affordable;
use crate::store::budget::{BudgetId, Purpose};
use crate::store::{Store, StoreError};

/// How often what was sent is written down: what a publisher sees is at most this old, and at most this much of it is lost when an instance dies.
pub const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How long a release must be quiet before the rest of its blocks goes back.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// How long it is taken for true what a release has for direct copies.
const DIRECT_ROOM_FOR: Duration = Duration::from_millis(500);
/// An account that nobody else holds is in the table and in the hand of who writes it.
const HELD_BY_TABLE_AND_WRITER: usize = 2;

pub const SENT_BYTES: &str = "spillway_origin_payload_bytes_total";

/// The accounts of all budgets that this instance spends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budgets {
    store: Store,
    runtime: tokio::runtime::Handle,
    /// One per budget with chunks being fetched here; it goes when the release is quiet.
    accounts: Arc<Mutex<HashMap<BudgetId, Arc<Account>>>>,
    /// What budgets had for direct copies, and when that was looked up: one for each release that somebody fetches of now.
    direct_rooms: Arc<Mutex<HashMap<BudgetId, (Instant, Bytes)>>>,
}

/// Whoever takes from an account waits for whoever is reserving a block for it, instead of reserving another one.
#[derive(Debug)]
struct Account {
    budget_id: BudgetId,
    inner: tokio::sync::Mutex<Reserved>,
    /// Bytes that were sent and are not written down.
    sent: AtomicU64,
    /// Bytes of broken first copies that were not sent, and are not written down.
    cut: AtomicU64,
}

#[derive(Debug)]
struct Reserved {
    first: u64,
    repair: u64,
    /// The length of a block, known after the first reservation.
    block: Option<u64>,
    used_at: Instant,
    /// Taken out of the table: whoever holds it must look again.
    retired: bool,
}

impl Reserved {
    fn left(&mut self, purpose: Purpose) -> &mut u64 {
        match purpose {
            Purpose::FirstCopy => &mut self.first,
            Purpose::Repair | Purpose::Direct => &mut self.repair,
        }
    }
}

/// Bytes of one chunk that is about to be sent.
#[derive(Debug)]
pub struct Taken {
    budgets: Budgets,
    account: Arc<Account>,
    purpose: Purpose,
    bytes: u64,
    sent: u64,
}

impl Taken {
    /// So many more bytes go out: all together no more than were taken.
    pub fn send(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes - self.sent);
        self.sent += bytes;
        self.account.sent.fetch_add(bytes, Ordering::Relaxed);
        metrics::counter!(SENT_BYTES).increment(bytes);
    }
}

impl Drop for Taken {
    /// What was not sent is there for the next one.
    fn drop(&mut self) {
        let unsent = self.bytes - self.sent;
        if unsent == 0 {
            return;
        }
        if self.sent > 0 && self.purpose == Purpose::FirstCopy {
            self.account.cut.fetch_add(unsent, Ordering::Relaxed);
        }
        let (budgets, account, purpose) = (self.budgets.clone(), Arc::clone(&self.account), self.purpose);
        self.budgets.runtime.spawn(async move { budgets.put_back(&account, purpose, unsent).await });
    }
}

impl Budgets {
    pub fn new(store: Store, runtime: tokio::runtime::Handle) -> Self {
        Self { store, runtime, accounts: Arc::default(), direct_rooms: Arc::default() }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<BudgetId, Arc<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` that are about to be sent; `None` if the budget does not have them.
    ///
    /// # Errors
    /// The database fails; nothing was taken.
    pub async fn take(&self, budget_id: BudgetId, purpose: Purpose, bytes: Bytes) -> Result<Option<Taken>, StoreError> {
        let budgets = self.clone();
        // On a task of its own: a client that leaves in the middle must not take a reserved block with it.
        let taken = self.runtime.spawn(async move { budgets.take_to_the_end(budget_id, purpose, bytes).await });
        taken.await.map_err(|error| StoreError::Invariant(format!("a reservation did not end: {error}")))?
    }

    /// What may still be sent as direct copies, as it was at most [`DIRECT_ROOM_FOR`] ago: it is asked with every message of a member, and whoever
    /// fetches one reserves it anyway.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn direct_room(&self, budget_id: BudgetId) -> Result<Bytes, StoreError> {
        let known = self.direct_rooms().get(&budget_id).copied().filter(|(at, _)| at.elapsed() < DIRECT_ROOM_FOR);
        if let Some((_, room)) = known {
            return Ok(room);
        }
        let room = self.store.origin_budget(budget_id).await?.room(Purpose::Direct);
        let mut rooms = self.direct_rooms();
        rooms.retain(|_, (at, _)| at.elapsed() < DIRECT_ROOM_FOR);
        rooms.insert(budget_id, (Instant::now(), room));
        Ok(room)
    }

    fn direct_rooms(&self) -> MutexGuard<'_, HashMap<BudgetId, (Instant, Bytes)>> {
        self.direct_rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may still be sent of an edition of `size` bytes, as far as can be told without reserving it.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn affordable(&self, budget_id: BudgetId, size: Bytes) -> Result<Affordable, StoreError> {
        let account = self.accounts().get(&budget_id).cloned();
        let (first, repair) = match account {
            Some(account) => {
                let reserved = account.inner.lock().await;
                (reserved.first, reserved.repair)
            }
            None => (0, 0),
        };
        let budget = self.store.origin_budget(budget_id).await?;
        let of = |purpose, left: u64| Bytes(budget.room(purpose).0.saturating_add(left));
        let again = of(Purpose::Repair, repair);
        // Each edition of the release has its part.
        let doubled = u128::from(budget.for_doubles().0) * u128::from(size.0) / u128::from(budget.first_copies.0.max(1));
        Ok(Affordable { again, first: of(Purpose::FirstCopy, first), doubled: Bytes(u64::try_from(doubled).unwrap_or(u64::MAX)) })
    }

    async fn take_to_the_end(&self, budget_id: BudgetId, purpose: Purpose, bytes: Bytes) -> Result<Option<Taken>, StoreError> {
        loop {
            let account = Arc::clone(self.accounts().entry(budget_id).or_insert_with(|| Arc::new(Account::new(budget_id))));
            let mut reserved = account.inner.lock().await;
            if reserved.retired {
                continue;
            }
            reserved.used_at = Instant::now();
            if *reserved.left(purpose) < bytes.0 {
                let block = match reserved.block {
                    Some(block) => block,
                    None => self.store.origin_budget(budget_id).await?.block().0,
                };
                reserved.block = Some(block);
                let need = Bytes(bytes.0 - *reserved.left(purpose));
                let mut more = self.store.reserve_origin_bytes(budget_id, purpose, need, Bytes(block)).await?;
                if more.0 == 0 && self.return_all_but(&mut reserved, budget_id, purpose).await? {
                    more = self.store.reserve_origin_bytes(budget_id, purpose, need, Bytes(block)).await?;
                }
                *reserved.left(purpose) += more.0;
            }
            if *reserved.left(purpose) < bytes.0 {
                return Ok(None);
            }
            *reserved.left(purpose) -= bytes.0;
            drop(reserved);
            return Ok(Some(Taken { budgets: self.clone(), account, purpose, bytes: bytes.0, sent: 0 }));
        }
    }

    /// Gives back what is reserved here for the other purpose; `false` if nothing is.
    async fn return_all_but(&self, reserved: &mut Reserved, budget_id: BudgetId, purpose: Purpose) -> Result<bool, StoreError> {
        let (first, repair) = match purpose {
            Purpose::FirstCopy => (0, std::mem::take(&mut reserved.repair)),
            Purpose::Repair | Purpose::Direct => (std::mem::take(&mut reserved.first), 0),
        };
        if first + repair > 0 {
            self.store.return_origin_bytes(budget_id, Bytes(first), Bytes(repair)).await?;
        }
        Ok(first + repair > 0)
    }

    async fn put_back(&self, account: &Account, purpose: Purpose, bytes: u64) {
        let mut reserved = account.inner.lock().await;
        if !reserved.retired {
            *reserved.left(purpose) += bytes;
            return;
        }
        let (first, repair) = match purpose {
            Purpose::FirstCopy => (bytes, 0),
            Purpose::Repair | Purpose::Direct => (0, bytes),
        };
        if let Err(error) = self.store.return_origin_bytes(account.budget_id, Bytes(first), Bytes(repair)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, bytes, "bytes that were not sent count as spent");
        }
    }

    /// Writes down what was sent, and gives back the rest of quiet releases' blocks.
    ///
    /// # Errors
    /// The database fails; what was not written is written the next time.
    pub async fn write(&self) -> Result<(), StoreError> {
        // A chunk that was taken long ago may be sent yet, and must be written down then: its account stays.
        let quiet = |account: &Arc<Account>, reserved: &Reserved| {
            let written = account.sent.load(Ordering::Relaxed) == 0 && account.cut.load(Ordering::Relaxed) == 0;
            reserved.used_at.elapsed() >= QUIET_FOR && Arc::strong_count(account) <= HELD_BY_TABLE_AND_WRITER && written
        };
        self.write_if(quiet).await
    }

    /// Writes everything down and gives everything back: this instance stops.
    ///
    /// # Errors
    /// The database fails: what is left counts as spent.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.write_if(|_, _| true).await
    }

    async fn write_if(&self, over: impl Fn(&Arc<Account>, &Reserved) -> bool) -> Result<(), StoreError> {
        let accounts: Vec<Arc<Account>> = self.accounts().values().cloned().collect();
        for account in accounts {
            self.write_sent(&account).await?;
            let mut reserved = account.inner.lock().await;
            if over(&account, &reserved) {
                reserved.retired = true;
                self.accounts().remove(&account.budget_id);
                if reserved.first + reserved.repair > 0 {
                    // Once only: if the answer is lost, the bytes count as spent rather than being given back twice.
                    self.store.return_origin_bytes(account.budget_id, Bytes(reserved.first), Bytes(reserved.repair)).await?;
                }
            }
        }
        Ok(())
    }

    async fn write_sent(&self, account: &Account) -> Result<(), StoreError> {
        let (sent, cut) = (account.sent.swap(0, Ordering::Relaxed), account.cut.swap(0, Ordering::Relaxed));
        if sent == 0 && cut == 0 {
            return Ok(());
        }
        let written = self.store.add_origin_sent(account.budget_id, Bytes(sent), Bytes(cut)).await;
        if written.is_err() {
            account.sent.fetch_add(sent, Ordering::Relaxed);
            account.cut.fetch_add(cut, Ordering::Relaxed);
        }
        written
    }

    /// Writes what was sent of one budget, so that its last figures are right.
    ///
    /// # Errors
    /// The database fails.
    pub async fn write_budget(&self, budget_id: BudgetId) -> Result<(), StoreError> {
        let account = self.accounts().get(&budget_id).cloned();
        match account {
            Some(account) => self.write_sent(&account).await,
            None => Ok(()),
        }
    }

    /// Writes about once a second until told to stop, then gives everything back.
    pub async fn keep_written(self, mut stopping: tokio::sync::watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(WRITE_EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            if let Err(error) = self.write().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "what the origin sent could not be written; it is tried again");
            }
        }
    }
}

impl Account {
    fn new(budget_id: BudgetId) -> Self {
        let inner = Reserved { first: 0, repair: 0, block: None, used_at: Instant::now(), retired: false };
        Self { budget_id, inner: tokio::sync::Mutex::new(inner), sent: AtomicU64::new(0), cut: AtomicU64::new(0) }
    }
}
