//! Who serves a download: of the terminals that hold the edition, several that are like the requester in communication state and have uplink to spare.
//!
//! Holders are put in order by how well they can serve (a healthy one before one that serves many already, and that before one that the requester found
//! silent), then those before others that serve this download now, then by how far they are from the requester in region, NAT, round trip, loss and rate,
//! then by the uplink that they have to spare. As many are taken from the front as the requester's downlink needs.

use std::cmp::Reverse;
use std::fmt;

use protocol::{BitsPerSecond, TerminalId};

use crate::relay_plan::{CommunicationState, NatKind, loss_band, round_trip_band};

/// So many serve at once if there are so many, whatever their rates are: when one of them goes, the others go on.
pub const SOURCES_MIN: usize = 3;
/// And at most so many: each is a link, and a part of an uplink that is set aside.
pub const SOURCES_MAX: usize = 8;
/// Whoever serves so many other downloads is asked only where there are too few others.
pub const SERVED_MAX: u32 = 8;
/// What an uplink is taken for that nobody has measured.
const UNKNOWN_UPLINK: u64 = 10_000_000;

/// Who asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requester {
    pub state: CommunicationState,
    /// 0 if it is not known.
    pub down: BitsPerSecond,
}

/// How a source has failed the requester lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It was found silent, or its link cannot be opened: it may be better by now, and is better than nobody.
    Silent,
    /// It sent what the edition does not have: never again in this download.
    Corrupt,
}

/// A terminal that holds the edition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    pub terminal_id: TerminalId,
    pub state: CommunicationState,
    /// 0 if it is not known.
    pub up: BitsPerSecond,
    /// Other downloads that it serves now.
    pub serving: u32,
    pub connected: bool,
    /// It serves this download already.
    pub chosen: bool,
    pub failure: Option<Failure>,
}

/// How the regions of two terminals stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearness {
    Same,
    /// Of one of them or both it is not known.
    Unknown,
    Other,
}

/// Why a holder stands where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    pub region: Nearness,
    /// Points of difference in all, 0 for one that is alike in everything.
    pub distance: u32,
    /// What of its uplink this download can count on.
    pub share: BitsPerSecond,
    pub serving: u32,
    pub failure: Option<Failure>,
}

/// A holder that is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub terminal_id: TerminalId,
    pub reason: Reason,
}

/// The sources of a download, best first. None if no holder is connected. The order of `holders` does not matter.
pub fn select(requester: &Requester, holders: &[Holder]) -> Vec<Choice> {
    let usable = holders.iter().filter(|holder| holder.connected && holder.failure != Some(Failure::Corrupt));
    let mut ranked: Vec<(Class, Choice, bool)> =
        usable.map(|holder| (Class::of(holder), choice(requester, holder), holder.chosen)).collect();
    ranked.sort_by_key(|(class, choice, chosen)| {
        (*class, !*chosen, choice.reason.distance, Reverse(choice.reason.share.0), choice.terminal_id)
    });
    let (mut chosen, mut rate) = (Vec::new(), 0u64);
    for (class, choice, _) in ranked {
        let enough = chosen.len() >= SOURCES_MIN && (class != Class::Healthy || rate >= requester.down.0);
        if chosen.len() == SOURCES_MAX || enough {
            break;
        }
        rate = rate.saturating_add(choice.reason.share.0);
        chosen.push(choice);
    }
    chosen
}

/// How well a holder can serve, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Healthy,
    Full,
    Silent,
}

impl Class {
    fn of(holder: &Holder) -> Self {
        match holder.failure {
            Some(Failure::Silent | Failure::Corrupt) => Self::Silent,
            None if holder.serving >= SERVED_MAX => Self::Full,
            None => Self::Healthy,
        }
    }
}

fn choice(requester: &Requester, holder: &Holder) -> Choice {
    let up = if holder.up.0 == 0 { UNKNOWN_UPLINK } else { holder.up.0 };
    let share = BitsPerSecond(up / (u64::from(holder.serving) + 1));
    let region = nearness(requester, holder);
    let reason =
        Reason { region, distance: distance(requester, holder, region, share), share, serving: holder.serving, failure: holder.failure };
    Choice { terminal_id: holder.terminal_id, reason }
}

fn nearness(requester: &Requester, holder: &Holder) -> Nearness {
    match (requester.state.region, holder.state.region) {
        (Some(one), Some(other)) if one == other => Nearness::Same,
        (Some(_), Some(_)) => Nearness::Other,
        (None, _) | (_, None) => Nearness::Unknown,
    }
}

/// Another region outweighs every round trip within one; two address translations that map per destination mostly need a relay between them; every
/// doubling of the round trip, every tenfold loss and every halving of the rate below the requester's part counts one.
fn distance(requester: &Requester, holder: &Holder, region: Nearness, share: BitsPerSecond) -> u32 {
    let region = match region {
        Nearness::Same => 0,
        Nearness::Unknown => 4,
        Nearness::Other => 8,
    };
    let per_destination = |nat: NatKind| nat == NatKind::EndpointDependent;
    let nat = if per_destination(requester.state.nat) && per_destination(holder.state.nat) { 6 } else { 0 };
    let round_trip = bands_apart(round_trip_band(requester.state.round_trip_ms), round_trip_band(holder.state.round_trip_ms));
    let loss = bands_apart(loss_band(requester.state.loss_ppm), loss_band(holder.state.loss_ppm));
    region + nat + round_trip + loss + halvings_below(share.0, requester.down.0 / (SOURCES_MIN as u64))
}

/// Of two bands, 0 where nothing is known: that is one step from everything.
fn bands_apart(one: u32, other: u32) -> u32 {
    match (one, other) {
        (0, 0) => 0,
        (0, _) | (_, 0) => 1,
        (one, other) => one.abs_diff(other),
    }
}

/// How often `wanted` must be halved until `given` is enough, up to 8.
fn halvings_below(given: u64, wanted: u64) -> u32 {
    (0..8).find(|halvings| wanted >> halvings <= given).unwrap_or(8)
}

impl fmt::Display for Reason {
    /// In words, for the requester.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = match self.region {
            Nearness::Same => "same region",
            Nearness::Unknown => "region not known",
            Nearness::Other => "another region",
        };
        let (whole, tenth) = (self.share.0 / 1_000_000, self.share.0 % 1_000_000 / 100_000);
        write!(f, "{region}, {} points apart, {whole}.{tenth} Mbit/s to spare, serves {} others", self.distance, self.serving)?;
        match self.failure {
            Some(Failure::Silent) => f.write_str(", was silent lately"),
            Some(Failure::Corrupt) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
