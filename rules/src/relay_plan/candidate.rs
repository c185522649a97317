//! A terminal that is to be put in a group, and what is known of where it stands.

use protocol::TerminalId;
use protocol::ws::Peer;

/// A terminal of a wave that is about to be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// As it will stand in the plan. An uplink of 0 is not known, and counts as the median of those of the wave that are.
    pub peer: Peer,
    pub state: CommunicationState,
    /// The primary terminal that it is tied to; see [`crate::ties`].
    pub primary: Option<TerminalId>,
}

/// How a terminal communicates, as far as anybody has measured it. The default knows nothing; what is not known is a likeness of its own, so that
/// terminals of which nothing is known are put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommunicationState {
    pub region: Option<Region>,
    /// Between the terminal and the server, there and back, in milliseconds.
    pub round_trip_ms: Option<u16>,
    /// Packets lost of a million.
    pub loss_ppm: Option<u32>,
    pub nat: NatKind,
}

/// Where a terminal stands, coarse enough that two of one region are near each other. Numbers say nothing by themselves: only equal ones are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(pub u16);

/// How the network address translation before a terminal maps its port (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NatKind {
    #[default]
    Unknown,
    /// No translation: the terminal's own address is reachable.
    Open,
    /// One mapping for all destinations: a peer reaches it by the address that a STUN server saw.
    EndpointIndependent,
    /// Another mapping per destination ("symmetric"): many links need a relay server.
    EndpointDependent,
}

impl From<Peer> for Candidate {
    /// A candidate of whose communication nothing is known, and who is tied to nobody.
    fn from(peer: Peer) -> Self {
        Self { peer, state: CommunicationState::default(), primary: None }
    }
}

/// One way in which terminals are alike or not, the one that matters most first: what is in another region is far away whatever its network is
/// like, and what has another kind of NAT links in another way whatever its round trip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aspect {
    Region,
    Nat,
    RoundTrip,
    Loss,
}

impl Aspect {
    pub(super) const FIRST: Self = Self::Region;

    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Region => Some(Self::Nat),
            Self::Nat => Some(Self::RoundTrip),
            Self::RoundTrip => Some(Self::Loss),
            Self::Loss => None,
        }
    }
}

/// What terminals are compared by: the aspects as bit fields, from the most significant one down, so that the order of likenesses is the order of
/// [`Aspect`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Likeness(u32);

impl Likeness {
    pub(super) fn of(state: &CommunicationState) -> Self {
        let region = state.region.map_or(0, |region| 1 + u32::from(region.0));
        Self(region << 15 | nat_class(state.nat) << 12 | round_trip_band(state.round_trip_ms) << 6 | loss_band(state.loss_ppm))
    }

    /// The fields of `aspect` and of all after it: terminals are put in order by it once those before it are settled.
    pub(super) fn from(self, aspect: Aspect) -> u32 {
        match aspect {
            Aspect::Region => self.0,
            Aspect::Nat => self.0 & 0x7FFF,
            Aspect::RoundTrip => self.0 & 0x0FFF,
            Aspect::Loss => self.0 & 0x003F,
        }
    }

    /// The field of `aspect` alone.
    pub(super) fn in_aspect(self, aspect: Aspect) -> u32 {
        match aspect.next() {
            Some(next) => self.from(aspect) - self.from(next),
            None => self.from(aspect),
        }
    }
}

/// Two kinds that link to anybody in the same way are alike.
fn nat_class(nat: NatKind) -> u32 {
    match nat {
        NatKind::Unknown => 0,
        NatKind::Open | NatKind::EndpointIndependent => 1,
        NatKind::EndpointDependent => 2,
    }
}

/// Below 16 ms, below 32, and so on by doubling: among short round trips a few milliseconds tell two towns apart, among long ones they tell nothing.
pub(crate) fn round_trip_band(round_trip_ms: Option<u16>) -> u32 {
    round_trip_ms.map_or(0, |round_trip| 1 + (u16::BITS - (round_trip >> 4).leading_zeros()))
}

/// Below a thousandth, a hundredth, a tenth, and above: what congestion control makes of a line changes by such steps.
pub(crate) fn loss_band(loss_ppm: Option<u32>) -> u32 {
    match loss_ppm {
        None => 0,
        Some(0..1_000) => 1,
        Some(1_000..10_000) => 2,
        Some(10_000..100_000) => 3,
        Some(100_000..) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(region: u16, nat: NatKind, round_trip_ms: u16, loss_ppm: u32) -> CommunicationState {
        CommunicationState { region: Some(Region(region)), round_trip_ms: Some(round_trip_ms), loss_ppm: Some(loss_ppm), nat }
    }

    #[test]
    fn a_likeness_compares_region_then_nat_then_round_trip_then_loss() {
        let rising = [
            CommunicationState::default(),
            state(0, NatKind::Unknown, u16::MAX, u32::MAX),
            state(0, NatKind::Open, 0, 0),
            state(0, NatKind::EndpointIndependent, 15, 1_000),
            state(0, NatKind::Open, 16, 0),
            state(0, NatKind::Open, 31, 10_000),
            state(0, NatKind::Open, u16::MAX, 100_000),
            state(0, NatKind::EndpointDependent, 0, 0),
            state(1, NatKind::Unknown, 0, 0),
            state(u16::MAX, NatKind::EndpointDependent, u16::MAX, u32::MAX),
        ];
        for pair in rising.windows(2) {
            assert!(Likeness::of(&pair[0]) < Likeness::of(&pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn figures_of_one_band_are_alike_and_those_of_two_are_not() {
        let round_trips = [(0, 15, true), (15, 16, false), (16, 31, true), (100, 127, true), (127, 128, false), (32_768, 65_535, true)];
        for (one, other, alike) in round_trips {
            assert_eq!(round_trip_band(Some(one)) == round_trip_band(Some(other)), alike, "{one} ms and {other} ms");
        }
        let losses = [(0, 999, true), (999, 1_000, false), (9_999, 10_000, false), (99_999, 100_000, false), (100_000, u32::MAX, true)];
        for (one, other, alike) in losses {
            assert_eq!(loss_band(Some(one)) == loss_band(Some(other)), alike, "{one} ppm and {other} ppm");
        }
        assert!(round_trip_band(None) != round_trip_band(Some(0)) && loss_band(None) != loss_band(Some(0)));
    }

    #[test]
    fn an_aspects_field_is_its_own_and_no_other_aspects() {
        let own = Likeness::of(&state(u16::MAX, NatKind::EndpointDependent, u16::MAX, u32::MAX));
        let others = [
            (Aspect::Region, state(3, NatKind::EndpointDependent, u16::MAX, u32::MAX)),
            (Aspect::Nat, state(u16::MAX, NatKind::Unknown, u16::MAX, u32::MAX)),
            (Aspect::RoundTrip, state(u16::MAX, NatKind::EndpointDependent, 0, u32::MAX)),
            (Aspect::Loss, state(u16::MAX, NatKind::EndpointDependent, u16::MAX, 0)),
        ];
        for (changed, other) in others {
            let other = Likeness::of(&other);
            for aspect in [Aspect::Region, Aspect::Nat, Aspect::RoundTrip, Aspect::Loss] {
                assert_eq!(own.in_aspect(aspect) != other.in_aspect(aspect), aspect == changed, "{aspect:?} after a change of {changed:?}");
            }
        }
    }
}
