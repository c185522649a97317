//! Puts the outcome together from what the server says and what lies on the terminals' disks, and checks one against the other.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::rest::{Application, Delivery, DeliveryState, Edition, LedgerTotals, Release, ReleaseState};
use protocol::{Amount, BidId, BitsPerSecond, TimestampMs};
use rules::auction::{Bid, Book, RankTerms};
use rules::oracle;
use rules::report::{WaveFacts, wave_bounds};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Published;
use super::contents;
use super::outcome::{Check, EditionRow, Ledger, Outcome, TerminalRow, WaveRow};
use super::scenario::{RESERVE_AMOUNT, Scenario};
use super::watch::Received;
use crate::failure::Failure;

/// The origin may send this much more than the editions, in percent, before the demo calls it wrong.
const ORIGIN_PERCENT_MAX: u64 = 110;

/// Everything that is known after the release, in types.
struct Facts<'a> {
    scenario: &'a Scenario,
    editions: Vec<Edition>,
    applications: Vec<Application>,
    /// By application, in the scenario's order of terminals.
    deliveries: Vec<Delivery>,
    release: Release,
    ledger: LedgerTotals,
    received: &'a [Received],
}

pub(super) fn gather(
    scenario: &Scenario,
    content: &Published,
    applications: &[Value],
    status: &Value,
    release: &Value,
    operator: &Value,
    received: &[Received],
) -> Result<Outcome, Failure> {
    let applications = applications.iter().map(typed::<Application>).collect::<Result<Vec<_>, _>>()?;
    let all: Vec<Delivery> = typed(status.pointer("/releases/0/deliveries").unwrap_or(&Value::Null))?;
    let of = |application: &Application| {
        let found = all.iter().find(|delivery| delivery.terminal_id == application.terminal_id).cloned();
        found.ok_or_else(|| Failure::told(format!("terminal {} was awarded nothing", application.terminal_id)))
    };
    let deliveries = applications.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    let facts = Facts {
        scenario,
        editions: content.editions.iter().map(typed).collect::<Result<_, _>>()?,
        applications,
        deliveries,
        release: typed(release)?,
        ledger: typed(operator.pointer("/ledger").unwrap_or(&Value::Null))?,
        received,
    };
    Ok(Outcome {
        terminals: rows(&facts),
        editions: facts.editions.iter().map(edition_row).collect(),
        waves: waves(&facts),
        checks: vec![
            contents_are_equal(&facts)?,
            sources_add_up(&facts),
            origin_stays_small(&facts),
            prices_equal_the_oracle(&facts)?,
            everything_is_settled(&facts),
            money_adds_up(&facts),
        ],
        origin_bytes: facts.release.origin.sent.0,
        ledger: Ledger { sum: facts.ledger.sum.amount, wallets: facts.ledger.wallets.amount, held: facts.ledger.held.amount },
        wall: Duration::ZERO,
    })
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| Failure::told(format!("an answer of the client is not what was expected ({error}): {value}")))
}

fn edition_row(edition: &Edition) -> EditionRow {
    EditionRow { label: edition.label.clone(), bytes: edition.length.0, chunks: edition.chunks.into(), blake3: edition.blake3.to_string() }
}

fn rows(facts: &Facts<'_>) -> Vec<TerminalRow> {
    let row = |index: usize| {
        let (delivery, terminal) = (&facts.deliveries[index], &facts.scenario.terminals[index]);
        // As its own source a receiver stands for what nobody had to send.
        let sent = |other: &'_ Delivery| {
            let receiver = other.terminal_id;
            other.sources.clone().into_iter().filter(move |share| share.source != receiver)
        };
        let from = |origin: bool| sent(delivery).filter(|share| share.source.is_origin() == origin).map(|share| share.bytes.0).sum();
        let shares = facts.deliveries.iter().flat_map(sent).filter(|share| share.source == delivery.terminal_id);
        TerminalRow {
            name: terminal.name.clone(),
            edition: facts.scenario.editions[terminal.edition].label.clone(),
            rank: delivery.rank.into(),
            price: delivery.price.amount.0,
            origin_bytes: from(true),
            peer_bytes: from(false),
            relayed_bytes: shares.map(|share| share.bytes.0).sum(),
            earned: delivery.earned.amount.0,
            completed_ms: facts.received[index].completed_ms,
            blake3: facts.received[index].blake3.clone(),
            peak_resident: facts.received[index].peak_resident,
        }
    };
    (0..facts.deliveries.len()).map(row).collect()
}

/// Each wave's last terminal beside the bound of the wave, as the server's report has it.
fn waves(facts: &Facts<'_>) -> Vec<WaveRow> {
    let mut waves = Vec::new();
    for (index, edition) in facts.scenario.editions.iter().enumerate() {
        let of_rank = |rank: usize| {
            let members = facts.deliveries.iter().zip(&facts.scenario.terminals).zip(facts.received);
            let in_wave = members.filter(|((delivery, terminal), _)| terminal.edition == index && delivery.rank as usize == rank);
            let complete: Vec<Duration> = in_wave.map(|(_, received)| Duration::from_millis(received.completed_ms)).collect();
            let lines = vec![facts.scenario.lines(); complete.len()];
            WaveFacts { holders_up: lines.iter().map(|line| line.up).collect(), lines, complete }
        };
        let of_ranks: Vec<WaveFacts> = (1..=facts.scenario.ranks.len()).map(of_rank).collect();
        let origin = facts.scenario.origin_part(index, facts.release.origin.budget);
        for ((rank, wave), bound) in (1u64..).zip(&of_ranks).zip(wave_bounds(edition.length, origin, &of_ranks)) {
            let Some(&last) = wave.complete.iter().max() else { continue };
            let (edition, terminals) = (edition.label.clone(), wave.complete.len());
            waves.push(WaveRow { edition, rank, terminals, last, bound: bound.bound });
        }
    }
    waves
}

fn check(what: &'static str, wrong: Vec<String>) -> Check {
    Check { what, wrong: (!wrong.is_empty()).then(|| wrong.join("; ")) }
}

/// The demo reads source and received files itself: neither the server nor the terminals are believed.
fn contents_are_equal(facts: &Facts<'_>) -> Result<Check, Failure> {
    let mut wrong = Vec::new();
    for (index, terminal) in facts.scenario.terminals.iter().enumerate() {
        let (edition, received) = (&facts.editions[terminal.edition], &facts.received[index]);
        if received.blake3 != edition.blake3.to_string() {
            wrong.push(format!("{} says {} instead of {}", terminal.name, received.blake3, edition.blake3));
        }
        if received.files != contents::facts(&facts.scenario.editions[terminal.edition].path)? {
            wrong.push(format!("{}'s files differ from the published ones", terminal.name));
        }
    }
    Ok(check("every terminal's files and hash equal its edition's", wrong))
}

fn sources_add_up(facts: &Facts<'_>) -> Check {
    let wrong = facts.deliveries.iter().zip(&facts.scenario.terminals).filter_map(|(delivery, terminal)| {
        let (sum, length) = (delivery.sources.iter().map(|share| share.bytes.0).sum::<u64>(), facts.editions[terminal.edition].length.0);
        (sum != length || delivery.verified.0 != length).then(|| format!("{}: {sum} of {length} bytes have a source", terminal.name))
    });
    check("every delivery's sources add up to its edition", wrong.collect())
}

fn origin_stays_small(facts: &Facts<'_>) -> Check {
    let (sent, size) = (facts.release.origin.sent.0, facts.editions.iter().map(|edition| edition.length.0).sum::<u64>());
    let budget = facts.release.origin.budget.0;
    let mut wrong = Vec::new();
    if sent * 100 > size * ORIGIN_PERCENT_MAX {
        wrong.push(format!("it sent {sent} bytes for {size}"));
    }
    if sent > budget {
        wrong.push(format!("it sent {sent} bytes over a budget of {budget}"));
    }
    let by_receipts: u64 = facts
        .deliveries
        .iter()
        .flat_map(|delivery| &delivery.sources)
        .filter(|share| share.source.is_origin())
        .map(|share| share.bytes.0)
        .sum();
    if by_receipts > sent {
        wrong.push(format!("receivers acknowledged {by_receipts} bytes of it, more than the {sent} that it counted"));
    }
    check("the origin sent at most 1.10 of the editions and kept its budget", wrong)
}

fn prices_equal_the_oracle(facts: &Facts<'_>) -> Result<Check, Failure> {
    let mut wrong = Vec::new();
    let ranks: Vec<RankTerms> =
        facts.scenario.ranks.iter().map(|rank| RankTerms { weight: rank.weight, capacity: rank.capacity }).collect();
    for (edition, scenario) in facts.editions.iter().zip(&facts.scenario.editions) {
        let bids = facts.applications.iter().filter(|application| application.edition_id == edition.id).map(|application| Bid {
            bid_id: application.bid_id,
            rank: application.rank_wanted,
            maximum: application.maximum.amount,
            applied_at: TimestampMs(u64::try_from(application.applied_at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)),
            up_seen: BitsPerSecond(0),
        });
        let book = Book::new(ranks.clone(), RESERVE_AMOUNT, bids.collect()).map_err(|error| Failure::told(error.to_string()))?;
        let expected = oracle::prices(&book).map_err(|error| Failure::told(error.to_string()))?;
        let expected: BTreeMap<BidId, (u32, Amount)> = expected.into_iter().map(|(id, rank, price)| (id, (rank, price))).collect();
        for (application, delivery) in facts.applications.iter().zip(&facts.deliveries).filter(|(a, _)| a.edition_id == edition.id) {
            let charged = (delivery.rank, delivery.price.amount);
            if expected.get(&application.bid_id) != Some(&charged) {
                wrong.push(format!("{}: {charged:?} instead of {:?}", scenario.label, expected.get(&application.bid_id)));
            }
        }
    }
    Ok(check("every rank and price equals the oracle's on the same book", wrong))
}

fn everything_is_settled(facts: &Facts<'_>) -> Check {
    let mut wrong: Vec<String> = Vec::new();
    if facts.release.state != ReleaseState::Settled {
        wrong.push(format!("the release is {:?}", facts.release.state));
    }
    for delivery in &facts.deliveries {
        if delivery.state != DeliveryState::Settled || delivery.charged != delivery.price {
            wrong.push(format!("{} is {:?}, charged {} of {}", delivery.terminal_id, delivery.state, delivery.charged, delivery.price));
        }
    }
    check("every delivery is settled at its full price", wrong)
}

fn money_adds_up(facts: &Facts<'_>) -> Check {
    let ledger = &facts.ledger;
    let mut wrong = Vec::new();
    if ledger.sum.amount != 0 {
        wrong.push(format!("the ledger's sum is {}", ledger.sum.amount));
    }
    if ledger.held.amount != 0 {
        wrong.push(format!("{} are still held", ledger.held.amount));
    }
    let accounts = ledger.wallets.amount + ledger.publishers.amount + ledger.platform.amount + ledger.vouchers_issued.amount;
    if accounts != 0 {
        wrong.push(format!("the kinds of account add up to {accounts}"));
    }
    let charged: u64 = facts.deliveries.iter().map(|delivery| delivery.charged.amount.0).sum();
    let earned: u64 = facts.deliveries.iter().map(|delivery| delivery.earned.amount.0).sum();
    let gained = ledger.publishers.amount + ledger.platform.amount + i64::try_from(earned).unwrap_or(i64::MAX);
    if i64::try_from(charged) != Ok(gained) {
        wrong.push(format!("receivers paid {charged}, publisher, platform and relays got {gained}"));
    }
    check("the ledger's sum is 0, nothing is held, and what was paid was earned", wrong)
}
