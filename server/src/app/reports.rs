//! The report of a release: how close each wave came to its bound, who moved how much, and what had to be chosen again.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::rest::{BoundRates, Page, Release, ReleaseReport, Spread, TerminalReport, Wave, WaveReport};
use protocol::{BitsPerSecond, Bytes, EditionId, ErrorCode, ReleaseId, UserId};
use rules::report::{Percentiles, WaveBound, WaveFacts, origin_part, percentiles, ratio_permille, wave_bounds};
use time::OffsetDateTime;

use crate::error::ApiError;
use crate::state::AppState;
use crate::store::PageRequest;
use crate::store::contents::Viewer;
use crate::store::reports::ReportedDelivery;

/// How many of the latest re-selections a report shows.
const LATEST: u32 = 100;

/// A release's report as it is now.
///
/// # Errors
/// `not_found`; `forbidden` for whoever neither publishes nor takes part in it; the cursor is not this list's; or a store fails.
pub async fn report(
    state: &AppState,
    id: ReleaseId,
    viewer: Viewer,
    request: &PageRequest,
    now: OffsetDateTime,
) -> Result<ReleaseReport, ApiError> {
    let release = state.store.release(id).await?;
    let only_of = audience(state, &release, viewer).await?;
    if let Err(error) = state.reselections.write().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the report lacks the latest re-selections");
    }
    let deliveries = state.store.reported_deliveries(id).await?;
    let timing = Timing::of(&release, &deliveries, state.config.origin_up);
    let mut terminals = state.store.reported_terminals(id, only_of, request).await?;
    timing.complete(&mut terminals);
    Ok(ReleaseReport {
        release_id: id,
        state: release.state,
        at: now,
        ratio_permille: timing.ratio,
        totals: state.store.report_totals(id).await?,
        origin: release.origin,
        waves: timing.waves,
        reselections: state.store.reselection_counts(id).await?,
        latest_reselections: state.store.latest_reselections(id, only_of, LATEST).await?,
        terminals,
        title: release.title,
    })
}

/// Whose terminals are shown: everybody's, or one user's.
async fn audience(state: &AppState, release: &Release, viewer: Viewer) -> Result<Option<UserId>, ApiError> {
    match viewer {
        Viewer::Operator => Ok(None),
        Viewer::User(user) if user == release.publisher_id => Ok(None),
        Viewer::User(user) if state.store.has_delivery(release.id, user).await? => Ok(Some(user)),
        Viewer::User(_) => Err(ApiError::new(ErrorCode::Forbidden)
            .detail("The report is for the release's publisher, for operators, and for those who have won in it.")),
    }
}

/// The waves of all editions beside their bounds.
struct Timing {
    waves: Vec<WaveReport>,
    /// By edition and wave: the opening, and the bound.
    bounds: BTreeMap<(EditionId, u32), (OffsetDateTime, Duration)>,
    ratio: Spread,
}

impl Timing {
    fn of(release: &Release, deliveries: &[ReportedDelivery], origin_up: BitsPerSecond) -> Self {
        let total = Bytes(release.editions.iter().map(|edition| edition.length.0).sum());
        let mut timing = Self { waves: Vec::new(), bounds: BTreeMap::new(), ratio: Spread::default() };
        let mut ratios = Vec::new();
        for edition in &release.editions {
            let origin = origin_part(origin_up, release.origin.budget, edition.length, total);
            let facts = (0..).zip(&release.waves).map(|(index, wave)| {
                let members = deliveries.iter().filter(|delivery| delivery.swarm_id == edition.swarm_id && delivery.wave == index);
                wave_facts(members, wave.opens_at)
            });
            let facts: Vec<WaveFacts> = facts.collect();
            let bounds = wave_bounds(edition.length, origin, &facts);
            for (((wave, &Wave { rank, opens_at }), facts), bound) in (0u32..).zip(&release.waves).zip(&facts).zip(bounds) {
                if facts.lines.is_empty() {
                    continue;
                }
                ratios.extend(facts.complete.iter().filter_map(|&elapsed| ratio_permille(elapsed, bound.bound)));
                timing.bounds.insert((edition.edition_id, wave), (opens_at, bound.bound));
                timing.waves.push(WaveReport {
                    edition_id: edition.edition_id,
                    label: edition.label.clone(),
                    rank,
                    wave,
                    opens_at,
                    terminals: count(facts.lines.len()),
                    complete: count(facts.complete.len()),
                    bound_ms: milliseconds(bound.bound),
                    elapsed_ms: spread(percentiles(facts.complete.clone(), facts.lines.len()), |elapsed| Some(milliseconds(elapsed))),
                    ratio_permille: spread(percentiles(facts.complete.clone(), facts.lines.len()), |elapsed| {
                        ratio_permille(elapsed, bound.bound)
                    }),
                    rates: rates(facts, &bound, origin.up),
                });
            }
        }
        // A wave without a bound has no ratio: its terminals are not waited for.
        let bounded = timing.waves.iter().filter(|wave| timing.bounds[&(wave.edition_id, wave.wave)].1 > Duration::ZERO);
        let bounded = bounded.map(|wave| wave.terminals as usize).sum();
        timing.ratio = spread(percentiles(ratios, bounded), Some);
        timing
    }

    /// Adds what follows from the openings and bounds.
    fn complete(&self, terminals: &mut Page<TerminalReport>) {
        for terminal in &mut terminals.items {
            let Some(&(opens_at, bound)) = self.bounds.get(&(terminal.edition_id, terminal.wave)) else { continue };
            let elapsed = terminal.completed_at.map(|completed_at| since(opens_at, completed_at));
            terminal.elapsed_ms = elapsed.map(milliseconds);
            terminal.ratio_permille = elapsed.and_then(|elapsed| ratio_permille(elapsed, bound));
        }
    }
}

fn wave_facts<'a>(members: impl Iterator<Item = &'a ReportedDelivery>, opens_at: OffsetDateTime) -> WaveFacts {
    let mut facts = WaveFacts::default();
    for member in members {
        facts.lines.push(member.lines);
        facts.complete.extend(member.completed_at.map(|completed_at| since(opens_at, completed_at)));
        facts.holders_up.extend(member.holds.then_some(member.lines.up));
    }
    facts
}

fn rates(facts: &WaveFacts, bound: &WaveBound, origin_up: BitsPerSecond) -> BoundRates {
    let sum = |rates: &mut dyn Iterator<Item = BitsPerSecond>| BitsPerSecond(rates.fold(0, |sum, rate| sum.saturating_add(rate.0)));
    let unknown = |rates: &mut dyn Iterator<Item = BitsPerSecond>| count(rates.filter(|rate| rate.0 == 0).count());
    let ups = || facts.lines.iter().map(|line| line.up);
    let downs = || facts.lines.iter().map(|line| line.down);
    BoundRates {
        origin_up: bound.holders_up.is_empty().then_some(origin_up),
        holders_up: sum(&mut bound.holders_up.iter().copied()),
        holders: count(bound.holders_up.len()),
        receivers_up: sum(&mut ups()),
        slowest_down: downs().filter(|down| down.0 > 0).min().unwrap_or_default(),
        unknown_up: unknown(&mut ups().chain(bound.holders_up.iter().copied())),
        unknown_down: unknown(&mut downs()),
    }
}

fn spread<T>(found: Percentiles<T>, number: impl Fn(T) -> Option<u64>) -> Spread {
    Spread { median: found.median.and_then(&number), p99: found.p99.and_then(&number), last: found.last.and_then(&number) }
}

/// Receipts of the last chunk may carry a moment before the opening only if a clock was set back.
fn since(opens_at: OffsetDateTime, moment: OffsetDateTime) -> Duration {
    Duration::try_from(moment - opens_at).unwrap_or(Duration::ZERO)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
