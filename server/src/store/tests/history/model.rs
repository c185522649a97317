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
}

#[derive(Debug, Clone)]
pub(super) struct ModelRelease {
    pub(super) id: ReleaseId,
    pub(super) stage: Stage,
    pub(super) reserve: u64,
    /// (weight, capacity)
    pub(super) ranks: Vec<(u32, u32)>,
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
        if self.available(self.owners[&terminal]) < signed(maximum) {
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
        let available = self.available(application.user) + signed(application.maximum);
        if available < signed(maximum) { Err(ErrorCode::InsufficientFunds) } else { Ok(()) }
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
        self.purse(application.user).held += signed(application.maximum);
        self.releases[release].applications.push(application);
    }

    pub(super) fn changed(&mut self, release: usize, place: usize, rank: u32, maximum: u64, applied_at: TimestampMs) {
        let application = &mut self.releases[release].applications[place];
        let (user, before) = (application.user, application.maximum);
        (application.rank, application.maximum, application.applied_at) = (rank, maximum, applied_at);
        application.version += 1;
        self.purse(user).held += signed(maximum) - signed(before);
    }

    pub(super) fn withdrawn(&mut self, release: usize, place: usize) {
        let application = &mut self.releases[release].applications[place];
        let (user, maximum) = (application.user, application.maximum);
        application.state = ApplicationState::Withdrawn;
        application.version += 1;
        self.purse(user).held -= signed(maximum);
    }

    /// Who wins at which price, by the definition of the auction; the ids of the deliveries are the store's to say.
    pub(super) fn closed(&mut self, release: usize) -> Vec<(ApplicationId, u64)> {
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
        let prices: BTreeMap<BidId, u64> = oracle::prices(&book).unwrap().into_iter().map(|(bid, _, price)| (bid, price.0)).collect();
        let mut winners = Vec::new();
        for application in active {
            let price = prices.get(&application.bid_id).copied();
            self.releases[release].application(application.id).state =
                if price.is_some() { ApplicationState::Won } else { ApplicationState::Lost };
            self.purse(application.user).held += signed(price.unwrap_or(0)) - signed(application.maximum);
            winners.extend(price.map(|price| (application.id, price)));
        }
        winners
    }

    /// Everything that is set aside for a release is free again.
    pub(super) fn cancelled(&mut self, release: usize) {
        let mut of = self.releases[release].clone();
        of.stage = Stage::Over;
        for application in of.applications.iter_mut().filter(|application| application.state == ApplicationState::Active) {
            application.state = ApplicationState::Cancelled;
            self.purse(application.user).held -= signed(application.maximum);
        }
        for delivery in of.deliveries.iter_mut().filter(|delivery| delivery.pending) {
            delivery.pending = false;
            self.purse(delivery.user).held -= signed(delivery.price);
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
}
