//! Releases: scheduled, cancelled and aborted by their publishers.

use protocol::rest::{Delivery, NewRelease, Page};
use protocol::{Currency, ErrorCode, ReleaseId};
use time::{Duration, OffsetDateTime};

use super::checks::Checks;
use super::swarm;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::PageRequest;
use crate::store::contents::Viewer;
use crate::store::idempotency::{Answer, Idempotency};
use crate::store::lifecycle::CancelledBy;

/// The longest time ahead that a release is scheduled for.
const AHEAD_MAX: Duration = Duration::days(5 * 366);
/// The longest delay of a rank and the longest limit: a week.
const WEEK_SECONDS: u64 = 7 * 24 * 3600;
const WEIGHT_MAX: u64 = 1_000_000;
const CAPACITY_MAX: u64 = 1_000_000;
const PRIMARIES_LIMIT: u64 = 4096;

pub async fn schedule(state: &AppState, new: NewRelease, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    check(&new, state.config.currency, now)?;
    let store = state.store.clone();
    let parts = [(ErrorCode::BudgetTooSmall, "/origin_budget"), (ErrorCode::UnknownEdition, "/editions")];
    state.to_the_end(async move { store.create_release(&new, &request, now).await }).await.map_err(|error| error.about(&parts))
}

/// What can be told from the request alone; the store checks the rest.
fn check(new: &NewRelease, currency: Currency, now: OffsetDateTime) -> Result<(), ApiError> {
    let mut checks = Checks::default();
    checks.text("/title", &new.title, 1..=200);
    checks.count("/editions", new.editions.len() as u64, 1..=64);
    for (index, edition) in new.editions.iter().enumerate() {
        checks.ensure(!new.editions[..index].contains(edition), format_args!("/editions/{index}"), "this edition stands twice");
    }
    check_ranks(new, currency, &mut checks);
    checks.money("/reserve", new.reserve, currency);
    checks.ensure(new.opens_at < new.closes_at, "/closes_at", "a release opens before it closes");
    checks.ensure(new.closes_at < new.starts_at, "/starts_at", "a release closes before it starts");
    checks.ensure(new.closes_at > now, "/closes_at", "this time has passed");
    checks.ensure(new.starts_at - now <= AHEAD_MAX, "/starts_at", format!("at most {} days ahead", AHEAD_MAX.whole_days()));
    checks.ensure(now - new.opens_at <= AHEAD_MAX, "/opens_at", format!("at most {} days ago", AHEAD_MAX.whole_days()));
    checks.ensure(new.origin_budget.0 > 0, "/origin_budget", "the origin sends each edition once at least");
    checks.count("/limit_s", new.limit_s.into(), 1..=WEEK_SECONDS);
    checks.count("/primaries_max", new.primaries_max.unwrap_or(1).into(), 1..=PRIMARIES_LIMIT);
    checks.count("/places_max", new.places_max.unwrap_or(1).into(), 1..=CAPACITY_MAX);
    checks.count("/wave_interval_s", new.wave_interval_s.unwrap_or(1).into(), 1..=WEEK_SECONDS);
    checks.done()
}

fn check_ranks(new: &NewRelease, currency: Currency, checks: &mut Checks) {
    checks.count("/ranks", new.ranks.len() as u64, 1..=16);
    for (index, rank) in new.ranks.iter().enumerate() {
        let at = |field: &str| format!("/ranks/{index}/{field}");
        checks.count(at("weight"), rank.weight.into(), 1..=WEIGHT_MAX);
        checks.count(at("capacity"), rank.capacity.unwrap_or(1).into(), 1..=CAPACITY_MAX);
        checks.count(at("delay_s"), rank.delay_s.into(), 0..=WEEK_SECONDS);
        if let Some(duty) = rank.duty {
            checks.count(at("duty/after_s"), duty.after_s.into(), 1..=WEEK_SECONDS);
            checks.money(at("duty/deposit"), duty.deposit, currency);
            checks.ensure(duty.deposit.amount.0 > 0, at("duty/deposit"), "without a deposit nothing would follow from leaving");
        }
        match index.checked_sub(1).and_then(|before| new.ranks.get(before)) {
            None => checks.ensure(rank.delay_s == 0, at("delay_s"), "rank 1 has no delay"),
            Some(better) => {
                checks.ensure(rank.weight < better.weight, at("weight"), "weights fall from rank to rank");
                checks.ensure(rank.delay_s > better.delay_s, at("delay_s"), "delays rise from rank to rank");
            }
        }
    }
}

pub async fn cancel(
    state: &AppState,
    id: ReleaseId,
    by: CancelledBy,
    request: Idempotency,
    now: OffsetDateTime,
) -> Result<Answer, ApiError> {
    let own = state.clone();
    let cancelled = async move {
        let answer = own.store.cancel_release(id, by, &request, now).await?;
        // The money is back. Terminals that cannot be told now have nothing to wait for: their release never opens.
        if let Err(error) = swarm::on_cancelled(&own, id).await {
            tracing::warn!(release = %id, error = &error as &dyn std::error::Error, "the terminals were not told of the cancelled release");
        }
        Ok::<_, ApiError>(answer)
    };
    state.to_the_end(cancelled).await
}

/// What has arrived is paid for; the terminals leave.
pub async fn abort(
    state: &AppState,
    id: ReleaseId,
    by: CancelledBy,
    request: Idempotency,
    now: OffsetDateTime,
) -> Result<Answer, ApiError> {
    let own = state.clone();
    let aborted = async move {
        let answer = own.store.abort_release(id, by, &request, now).await?;
        // The work is noted as due as well, so another instance does what cannot be done here.
        if let Err(error) = swarm::on_deadline(&own, id).await {
            tracing::warn!(release = %id, error = &error as &dyn std::error::Error, "an aborted release is settled later");
        }
        Ok::<_, ApiError>(answer)
    };
    state.to_the_end(aborted).await
}

/// Deliveries with what their terminals reported last. Without Redis the reports are left out: they are not what is paid on.
pub async fn deliveries(state: &AppState, id: ReleaseId, viewer: Viewer, request: &PageRequest) -> Result<Page<Delivery>, ApiError> {
    let mut page = state.store.deliveries(id, viewer, request).await?;
    let ids: Vec<_> = page.items.iter().map(|delivery| delivery.id).collect();
    match futures_util::future::try_join(state.live.progress(&ids), state.live.overheads(&ids)).await {
        Ok((reports, overheads)) => {
            for ((delivery, progress), overhead) in page.items.iter_mut().zip(reports).zip(overheads) {
                (delivery.progress, delivery.overhead_ns_per_byte) = (progress, overhead);
            }
        }
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "progress is not known"),
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use protocol::rest::{Rank, Selection};
    use protocol::{Amount, BasisPoints, Bytes, ContentId, EditionId, Money};
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 10:00 UTC);

    fn release() -> NewRelease {
        NewRelease {
            content_id: ContentId::from_bytes([1; 16]),
            sealed: false,
            title: "A film".to_owned(),
            editions: vec![EditionId([1; 32]), EditionId([2; 32])],
            ranks: vec![
                Rank { weight: 100, delay_s: 0, capacity: Some(1), duty: None },
                Rank { weight: 60, delay_s: 10, capacity: None, duty: None },
            ],
            selection: Selection::Auction,
            reserve: Money { amount: Amount(0), currency: Currency::EUR },
            opens_at: NOW,
            closes_at: NOW + Duration::hours(1),
            starts_at: NOW + Duration::hours(2),
            origin_budget: Bytes(1),
            relay_share: BasisPoints::ALL,
            fee: BasisPoints::default(),
            limit_s: 60,
            primaries_max: Some(16),
            places_max: Some(100),
            wave_interval_s: None,
        }
    }

    #[test]
    fn a_sound_release_passes() {
        assert!(check(&release(), Currency::EUR, NOW).is_ok());
    }

    #[test]
    fn each_part_that_cannot_be_is_named() {
        type Spoil = fn(&mut NewRelease);
        let faults: [(Spoil, &str); 18] = [
            (|new| new.title.clear(), "/title"),
            (|new| new.editions.clear(), "/editions"),
            (|new| new.editions[1] = new.editions[0], "/editions/1"),
            (|new| new.ranks.clear(), "/ranks"),
            (|new| new.ranks[0].delay_s = 1, "/ranks/0/delay_s"),
            (|new| new.ranks[1].delay_s = 0, "/ranks/1/delay_s"),
            (|new| new.ranks[1].weight = 100, "/ranks/1/weight"),
            (|new| new.ranks[1].capacity = Some(0), "/ranks/1/capacity"),
            (|new| new.reserve.currency = "USD".parse().unwrap(), "/reserve/currency"),
            (|new| new.opens_at = new.closes_at, "/closes_at"),
            (|new| new.starts_at = new.closes_at, "/starts_at"),
            (|new| new.starts_at = datetime!(9999-12-31 23:59:59 UTC), "/starts_at"),
            (|new| new.opens_at = datetime!(0000-01-01 0:00 UTC), "/opens_at"),
            (|new| new.origin_budget = Bytes(0), "/origin_budget"),
            (|new| new.limit_s = 604_801, "/limit_s"),
            (|new| new.primaries_max = Some(4_097), "/primaries_max"),
            (|new| new.places_max = Some(0), "/places_max"),
            (|new| new.wave_interval_s = Some(0), "/wave_interval_s"),
        ];
        for (spoil, pointer) in faults {
            let mut new = release();
            spoil(&mut new);
            let error = check(&new, Currency::EUR, NOW).unwrap_err();
            assert_eq!(error.errors.iter().map(|part| part.pointer.as_str()).collect::<Vec<_>>(), [pointer]);
        }
        let mut past = release();
        past.opens_at = NOW - Duration::hours(2);
        past.closes_at = NOW;
        assert_eq!(check(&past, Currency::EUR, NOW).unwrap_err().errors[0].pointer, "/closes_at");
    }
}
