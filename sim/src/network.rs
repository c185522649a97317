//! Lines and what lies between them: uplinks and downlinks that carry one message after the other, distances, jitter, losses and partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarm::Now;

use crate::rng::{Purpose, Rng};
use crate::scenario::{REGIONS, Scenario};

/// The least and most time after which a lost message is sent again: a data channel is reliable, so that a loss is a delay.
const RESEND: (Duration, Duration) = (Duration::from_millis(120), Duration::from_millis(600));
/// The most that a message is late without being lost.
const JITTER: Duration = Duration::from_millis(4);
/// The server stands here.
const SERVER_REGION: usize = 0;
const SERVER_ACCESS: Duration = Duration::from_micros(300);
/// What a message costs on the line beside its own bytes: the headers of Ethernet, IP, UDP, DTLS and SCTP, and an acknowledgement by SCTP, which is on the
/// other end's line and as long again.
const HEADERS: u64 = 200;

#[derive(Debug)]
struct Line {
    up: u64,
    down: u64,
    region: usize,
    access: Duration,
    up_free_at: Now,
    down_free_at: Now,
    /// How long the uplink has been sending in all.
    busy: Duration,
}

/// A set of terminals that cannot reach the others.
#[derive(Debug)]
struct Cut {
    fault: usize,
    cut_off: BTreeSet<usize>,
    from_server: bool,
}

#[derive(Debug)]
pub(crate) struct Network {
    lines: Vec<Line>,
    distances: [[Duration; REGIONS]; REGIONS],
    loss_per_mille: u64,
    /// See [`Scenario::peers_wire_per_mille`].
    wire_per_mille: u64,
    rng: Rng,
    /// Per ordered channel (sender, receiver, its number), when its last message arrives: none overtakes another.
    floors: BTreeMap<(usize, usize, u64), Now>,
    cuts: Vec<Cut>,
    pub(crate) lost: u64,
}

fn sending(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos((bytes + HEADERS).saturating_mul(8_000_000_000) / rate.max(1))
}

impl Network {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let line = |terminal: &crate::scenario::TerminalSpec| Line {
            up: terminal.up.0,
            down: terminal.down.0,
            region: terminal.region,
            access: terminal.access,
            up_free_at: Now::ZERO,
            down_free_at: Now::ZERO,
            busy: Duration::ZERO,
        };
        Self {
            lines: scenario.terminals.iter().map(line).collect(),
            distances: scenario.distances,
            loss_per_mille: scenario.loss_per_mille,
            wire_per_mille: scenario.peers_wire_per_mille,
            rng: Rng::new(scenario.seed, Purpose::Network),
            floors: BTreeMap::new(),
            cuts: Vec::new(),
            lost: 0,
        }
    }

    /// One way between two terminals, without jitter.
    pub(crate) fn distance(&self, from: usize, to: usize) -> Duration {
        let (from, to) = (&self.lines[from], &self.lines[to]);
        from.access + self.distances[from.region][to.region] + to.access
    }

    fn delay(&mut self, distance: Duration) -> Duration {
        let jitter = self.rng.time(Duration::ZERO, JITTER);
        if !self.rng.chance(self.loss_per_mille) {
            return distance + jitter;
        }
        self.lost += 1;
        distance + jitter + self.rng.time(RESEND.0, RESEND.1)
    }

    /// Puts a message on the sender's uplink. Answers when it reaches the receiver's line.
    pub(crate) fn send(&mut self, from: usize, to: usize, channel: u64, bytes: u64, now: Now) -> Now {
        let bytes = bytes * self.wire_per_mille / 1_000;
        let line = &mut self.lines[from];
        let began = line.up_free_at.max(now);
        line.up_free_at = began + sending(bytes, line.up);
        line.busy += sending(bytes, line.up);
        // A small message does not wait behind the data that is on the line: it takes its part of it.
        let left = if bytes > 2_048 { line.up_free_at } else { now + sending(bytes, line.up) };
        let distance = self.distance(from, to);
        let arrives = left + self.delay(distance);
        self.in_order((from, to, channel), arrives)
    }

    /// When a message that was held back by a partition arrives now that it is over.
    pub(crate) fn release(&mut self, from: usize, to: usize, channel: u64, now: Now) -> Now {
        let distance = self.distance(from, to);
        let arrives = now + self.delay(distance);
        self.in_order((from, to, channel), arrives)
    }

    fn in_order(&mut self, channel: (usize, usize, u64), arrives: Now) -> Now {
        let floor = self.floors.entry(channel).or_default();
        *floor = arrives.max(*floor);
        *floor
    }

    /// The channel is closed: nothing more is sent on it.
    pub(crate) fn close(&mut self, a: usize, b: usize, channel: u64) {
        self.floors.remove(&(a, b, channel));
        self.floors.remove(&(b, a, channel));
    }

    /// A message has reached the line of `to`. Answers when it is through.
    pub(crate) fn receive(&mut self, to: usize, bytes: u64, now: Now) -> Now {
        let line = &mut self.lines[to];
        line.down_free_at = line.down_free_at.max(now) + sending(bytes, line.down);
        line.down_free_at
    }

    /// How long a terminal's uplink has been sending in all.
    pub(crate) fn busy(&self, terminal: usize) -> Duration {
        self.lines[terminal].busy
    }

    /// When the uplink has nothing more to send.
    pub(crate) fn up_free_at(&self, terminal: usize) -> Now {
        self.lines[terminal].up_free_at
    }

    /// One way between a terminal and the server, over a connection that is in order anyway.
    pub(crate) fn way_to_server(&mut self, terminal: usize) -> Duration {
        let line = &self.lines[terminal];
        let distance = line.access + self.distances[line.region][SERVER_REGION] + SERVER_ACCESS;
        self.delay(distance)
    }

    pub(crate) fn slow_down(&mut self, terminal: usize, divisor: u64) {
        let line = &mut self.lines[terminal];
        line.up = (line.up / divisor.max(1)).max(64_000);
    }

    /// What a terminal has in its buffers is gone with it.
    pub(crate) fn restart(&mut self, terminal: usize, now: Now) {
        let line = &mut self.lines[terminal];
        (line.up_free_at, line.down_free_at) = (now, now);
    }

    pub(crate) fn cut(&mut self, fault: usize, cut_off: BTreeSet<usize>, from_server: bool) {
        self.cuts.push(Cut { fault, cut_off, from_server });
    }

    pub(crate) fn heal(&mut self, fault: usize) {
        self.cuts.retain(|cut| cut.fault != fault);
    }

    pub(crate) fn are_parted(&self, a: usize, b: usize) -> bool {
        self.cuts.iter().any(|cut| cut.cut_off.contains(&a) != cut.cut_off.contains(&b))
    }

    pub(crate) fn is_parted_from_server(&self, terminal: usize) -> bool {
        self.cuts.iter().any(|cut| cut.from_server && cut.cut_off.contains(&terminal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Wish;

    fn network() -> Network {
        let mut scenario = Scenario::new(&Wish { terminals: 3, ..Wish::small(1) });
        for terminal in &mut scenario.terminals {
            terminal.up = protocol::BitsPerSecond(8_000_000);
            terminal.down = protocol::BitsPerSecond(16_000_000);
        }
        scenario.loss_per_mille = 0;
        Network::new(&scenario)
    }

    #[test]
    fn an_uplink_and_a_downlink_carry_one_message_after_the_other() {
        let mut network = network();
        let first = network.send(0, 1, 1, 99_800, Now::ZERO);
        assert_eq!(network.up_free_at(0), Now::from_millis(100));
        assert!(first >= Now::from_millis(100) + network.distance(0, 1));
        network.send(0, 2, 1, 99_800, Now::ZERO);
        assert_eq!(network.up_free_at(0), Now::from_millis(200));
        let at = Now::from_secs(1);
        assert_eq!((network.receive(1, 99_800, at), network.receive(1, 99_800, at)), (Now::from_millis(1_050), Now::from_millis(1_100)));
    }

    #[test]
    fn no_message_overtakes_another_on_its_channel_however_small() {
        let mut network = network();
        let data = network.send(0, 1, 1, 60_000, Now::ZERO);
        assert!(network.send(0, 1, 1, 20, Now::ZERO) >= data);
        assert!(network.send(0, 1, 2, 20, Now::ZERO) < data, "another channel does not wait");
        network.loss_per_mille = 1_000;
        let late = network.send(0, 1, 2, 20, Now::ZERO);
        assert!(late >= network.distance(0, 1) + RESEND.0 && network.lost == 1);
    }

    #[test]
    fn a_partition_parts_its_two_sides_and_nobody_else() {
        let mut network = network();
        network.cut(7, BTreeSet::from([0, 1]), true);
        assert!(network.are_parted(0, 2) && !network.are_parted(0, 1));
        assert!(network.is_parted_from_server(1) && !network.is_parted_from_server(2));
        network.heal(7);
        assert!(!network.are_parted(0, 2) && !network.is_parted_from_server(0));
    }
}
