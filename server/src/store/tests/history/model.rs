//! What the money must be, kept in plain numbers: no holds, transfers or entries, only who has how much and what is set aside for what.

use std::collections::BTreeMap;

use protocol::rest::ApplicationState;
use protocol::{Amount, ApplicationId, BidId, BitsPerSecond, DeliveryId, ErrorCode, ReleaseId, TerminalId, TimestampMs, UserId};
use rules::auction::{Bid, Book, RankTerms};
use rules::oracle;

use super::super::fixture::CHUNKS;

/// Of every release here: half of what the fee of a tenth leaves is the sources'.
pub(super) const FEE_BP: u64 = 1_000;
pub(super) const RELAY_BP: u64 = 5_000;
const EDITION: u64 = 1_000;
/// What every rank with a deposit owes.
pub(super) const DUTY_MS: u64 = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    Closed,
    Live,
    /// Ended in the middle; what is pending is still to be settled.
    Aborted,
    Over,
}

#[derive(Debug, Clone)]
pub(super) struct ModelApplication {
    pub(super) id: ApplicationId,
    pub(super) bid_id: BidId,
    pub(super) user: UserId,
    pub(super) terminal: TerminalId,
    pub(super) rank: u32,
    pub(super) maximum: u64,
    pub(super) deposit: u64,
    pub(super) applied_at: TimestampMs,
    pub(super) state: ApplicationState,
    pub(super) version: u32,
}

#[derive(Debug, Clone)]
pub(super) struct ModelDelivery {
    pub(super) id: DeliveryId,
    pub(super) user: UserId,
    pub(super) terminal: TerminalId,
    pub(super) price: u64,
    /// Whom each chunk came from.
    pub(super) chunks: [Option<TerminalId>; CHUNKS.len()],
    pub(super) pending: bool,
    /// What stands beside the price until the duty has ended; nothing where the rank owes none.
    pub(super) deposit: u64,
    pub(super) completed_at: Option<TimestampMs>,
    /// When it was looked for, and whether it was there.
    pub(super) looks: Vec<(TimestampMs, bool)>,
}

#[derive(Debug, Clone)]
pub(super) struct ModelRelease {
    pub(super) id: ReleaseId,
    pub(super) stage: Stage,
    pub(super) reserve: u64,
    /// (weight, capacity)
    pub(super) ranks: Vec<(u32, u32)>,
    /// Of each rank; 0 where it owes nothing.
    pub(super) deposits: Vec<u64>,
    pub(super) applications: Vec<ModelApplication>,
    pub(super) deliveries: Vec<ModelDelivery>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Purse {
    pub(super) posted: i64,
    pub(super) held: i64,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) purses: BTreeMap<UserId, Purse>,
    pub(super) owners: BTreeMap<TerminalId, UserId>,
    pub(super) publisher: i64,
    pub(super) platform: i64,
    pub(super) vouchers_issued: i64,
    pub(super) releases: Vec<ModelRelease>,
}

impl ModelRelease {
    /// What the terms say against a bid.
    fn refusal(&self, rank: u32, maximum: u64) -> Option<ErrorCode> {
        let place = usize::try_from(rank).ok().and_then(|rank| self.ranks.get(rank.checked_sub(1)?));
        let Some((weight, _)) = place else { return Some(ErrorCode::UnknownRank) };
        (maximum * u64::from(self.ranks[0].0) < self.reserve * u64::from(*weight)).then_some(ErrorCode::BelowReserve)
    }

    /// What is held beside the maximum of a bid for this rank.
    pub(super) fn deposit_from(&self, rank: u32) -> u64 {
        self.deposits.iter().skip(rank.saturating_sub(1) as usize).copied().max().unwrap_or(0)
    }

    pub(super) fn application(&mut self, id: ApplicationId) -> &mut ModelApplication {
        self.applications.iter_mut().find(|application| application.id == id).expect("the model knows it")
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap()
}

impl Model {
    pub(super) fn purse(&mut self, user: UserId) -> &mut Purse {
        self.purses.entry(user).or_default()
    }

    fn available(&self, user: UserId) -> i64 {
        self.purses.get(&user).map_or(0, |purse| purse.posted - purse.held)
    }

    pub(super) fn redeemed(&mut self, user: UserId, value: u64) {
        self.purse(user).posted += signed(value);
        self.vouchers_issued -= signed(value);
    }

    /// Whether an application can be made, and if not, why.
    pub(super) fn may_apply(&self, release: usize, terminal: TerminalId, rank: u32, maximum: u64) -> Result<(), ErrorCode> {
        let of = &self.releases[release];
        if of.stage != Stage::Open {
            return Err(ErrorCode::ReleaseClosed);
        }
        of.refusal(rank, maximum).map_or(Ok(()), Err)?;
        if self.available(self.owners[&terminal]) < signed(maximum + of.deposit_from(rank)) {
            return Err(ErrorCode::InsufficientFunds);
        }
        let applied = |application: &ModelApplication| application.terminal == terminal && application.state == ApplicationState::Active;
        if of.applications.iter().any(applied) { Err(ErrorCode::AlreadyApplied) } else { Ok(()) }
    }

    /// Whether an application can be changed to this bid, naming this version, and if not, why.
    pub(super) fn may_change(&self, release: usize, place: usize, version: u32, rank: u32, maximum: u64) -> Result<(), ErrorCode> {
        self.may_withdraw(release, place)?;
        let (of, application) = (&self.releases[release], &self.releases[release].applications[place]);
        if application.version != version {
            return Err(ErrorCode::PreconditionFailed);
        }
        of.refusal(rank, maximum).map_or(Ok(()), Err)?;
        let available = self.available(application.user) + signed(application.maximum + application.deposit);
        if available < signed(maximum + of.deposit_from(rank)) { Err(ErrorCode::InsufficientFunds) } else { Ok(()) }
    }

    pub(super) fn may_withdraw(&self, release: usize, place: usize) -> Result<(), ErrorCode> {
        let of = &self.releases[release];
        match of.applications[place].state {
            _ if of.stage != Stage::Open => Err(ErrorCode::ReleaseClosed),
            ApplicationState::Active => Ok(()),
            ApplicationState::Withdrawn => Err(ErrorCode::Conflict),
            ApplicationState::Won | ApplicationState::Lost | ApplicationState::Cancelled => Err(ErrorCode::ReleaseClosed),
        }
    }

    pub(super) fn applied(&mut self, release: usize, application: ModelApplication) {
        self.purse(application.user).held += signed(application.maximum + application.deposit);
        self.releases[release].applications.push(application);
    }

    pub(super) fn changed(&mut self, release: usize, place: usize, rank: u32, maximum: u64, applied_at: TimestampMs) {
        let deposit = self.releases[release].deposit_from(rank);
        let application = &mut self.releases[release].applications[place];
        let (user, before) = (application.user, application.maximum + application.deposit);
        (application.rank, application.maximum, application.deposit, application.applied_at) = (rank, maximum, deposit, applied_at);
        application.version += 1;
        self.purse(user).held += signed(maximum + deposit) - signed(before);
    }

    pub(super) fn withdrawn(&mut self, release: usize, place: usize) {
        let application = &mut self.releases[release].applications[place];
        let (user, held) = (application.user, application.maximum + application.deposit);
        application.state = ApplicationState::Withdrawn;
        application.version += 1;
        self.purse(user).held -= signed(held);
    }

    /// Who wins at which price and deposit, by the definition of the auction; the ids of the deliveries are the store's to say.
    pub(super) fn closed(&mut self, release: usize) -> Vec<(ApplicationId, u64, u64)> {
        let of = &mut self.releases[release];
        of.stage = Stage::Closed;
        let active: Vec<ModelApplication> =
            of.applications.iter().filter(|application| application.state == ApplicationState::Active).cloned().collect();
        let bids = active.iter().map(|application| Bid {
            bid_id: application.bid_id,
            rank: application.rank,
            maximum: Amount(application.maximum),
            applied_at: application.applied_at,
            up_seen: BitsPerSecond(0),
        });
        let ranks = of.ranks.iter().map(|&(weight, capacity)| RankTerms { weight, capacity }).collect();
        let book = Book::new(ranks, Amount(of.reserve), bids.collect()).unwrap();
        let deposits = of.deposits.clone();
        let deposit_of = |rank: u32| deposits[rank as usize - 1];
        let won: BTreeMap<BidId, (u64, u64)> =
            oracle::prices(&book).unwrap().into_iter().map(|(bid, rank, price)| (bid, (price.0, deposit_of(rank)))).collect();
        let mut winners = Vec::new();
        for application in active {
            let award = won.get(&application.bid_id).copied();
            self.releases[release].application(application.id).state =
                if award.is_some() { ApplicationState::Won } else { ApplicationState::Lost };
            let (price, deposit) = award.unwrap_or_default();
            self.purse(application.user).held += signed(price + deposit) - signed(application.maximum + application.deposit);
            winners.extend(award.map(|(price, deposit)| (application.id, price, deposit)));
        }
        winners
    }

    /// Everything that is set aside for a release is free again.
    pub(super) fn cancelled(&mut self, release: usize) {
        let mut of = self.releases[release].clone();
        of.stage = Stage::Over;
        for application in of.applications.iter_mut().filter(|application| application.state == ApplicationState::Active) {
            application.state = ApplicationState::Cancelled;
            self.purse(application.user).held -= signed(application.maximum + application.deposit);
        }
        for delivery in of.deliveries.iter_mut().filter(|delivery| delivery.pending) {
            delivery.pending = false;
            self.purse(delivery.user).held -= signed(delivery.price + delivery.deposit);
            delivery.deposit = 0;
        }
        self.releases[release] = of;
    }

    /// Charges for what has arrived, and pays for it.
    pub(super) fn settled(&mut self, release: usize, place: usize) {
        let delivery = &mut self.releases[release].deliveries[place];
        delivery.pending = false;
        let delivery = delivery.clone();
        let mut sources: BTreeMap<TerminalId, u64> = BTreeMap::new();
        for (source, length) in delivery.chunks.iter().zip(CHUNKS) {
            if let Some(source) = source {
                *sources.entry(*source).or_default() += u64::from(length);
            }
        }
        let arrived: u64 = sources.values().sum();
        let charge = delivery.price * arrived / EDITION;
        let fee = (charge * FEE_BP).div_ceil(10_000);
        let pool = (charge - fee) * RELAY_BP / 10_000;
        // Largest remainder; among equals the lower id, the origin last.
        let mut parts: Vec<(TerminalId, u64, u64)> =
            sources.iter().map(|(source, bytes)| (*source, pool * bytes / arrived, pool * bytes % arrived)).collect();
        let left = pool - parts.iter().map(|(_, part, _)| part).sum::<u64>();
        parts.sort_by_key(|&(source, _, remainder)| (std::cmp::Reverse(remainder), source.is_origin(), source));
        parts.iter_mut().take(usize::try_from(left).unwrap()).for_each(|(_, part, _)| *part += 1);
        let mut to_relays = 0;
        for (source, part, _) in parts.into_iter().filter(|(source, ..)| !source.is_origin()) {
            let owner = self.owners[&source];
            self.purse(owner).posted += signed(part);
            to_relays += part;
        }
        let purse = self.purse(delivery.user);
        purse.held -= signed(delivery.price);
        purse.posted -= signed(charge);
        self.platform += signed(fee);
        self.publisher += signed(charge - fee - to_relays);
    }

    /// Whether nothing is left to wait for of a delivery's duty.
    pub(super) fn duty_is_due(&self, release: usize, place: usize, now: TimestampMs) -> bool {
        let delivery = &self.releases[release].deliveries[place];
        let is_over = matches!(self.releases[release].stage, Stage::Aborted | Stage::Over);
        let ends = delivery.completed_at.map(|completed| completed.0 + DUTY_MS);
        !delivery.pending && (is_over || ends.is_none_or(|ends| ends <= now.0))
    }

    /// Ends a duty: what was missed of it goes to the publisher.
    pub(super) fn duty_ended(&mut self, release: usize, place: usize, now: TimestampMs) {
        let delivery = &mut self.releases[release].deliveries[place];
        let deposit = std::mem::take(&mut delivery.deposit);
        let delivery = delivery.clone();
        let missed = if delivery.chunks.iter().any(Option::is_some) { delivery.missed_ms(now) } else { 0 };
        let forfeited = deposit * missed / DUTY_MS;
        let purse = self.purse(delivery.user);
        purse.held -= signed(deposit);
        purse.posted -= signed(forfeited);
        self.publisher += signed(forfeited);
    }
}

impl ModelDelivery {
    /// From all looks at once: each run of looks that missed it is an absence, the last of them until now if the terminal did not come back.
    fn missed_ms(&self, now: TimestampMs) -> u64 {
        let (begins, ends) = match self.completed_at {
            Some(completed) => (completed.0, completed.0 + DUTY_MS),
            None => (0, u64::MAX),
        };
        let mut missed = 0;
        for run in self.looks.chunk_by(|first, second| first.1 == second.1) {
            let [(first, false), ..] = run else { continue };
            let trails = run.last() == self.looks.last();
            if !trails && self.completed_at.is_none() {
                continue;
            }
            let until = if trails { now } else { run[run.len() - 1].0 };
            missed += until.0.min(ends).saturating_sub(first.0.max(begins));
        }
        let missed = missed.min(DUTY_MS);
        if missed > DUTY_MS / 10 { missed } else { 0 }
    }
}
