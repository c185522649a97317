//! The world: terminals, network and server under one virtual clock. Each event goes to whom it concerns; what that one asks for becomes later events.

mod ending;
mod event;
mod links;
mod origin;
mod sockets;
mod terminals;
mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::frame::Frame;
use swarm::Now;

use crate::content::Content;
use crate::invariants::{Invariant, Invariants, Violation};
use crate::network::Network;
use crate::plan::{Identity, Planner};
use crate::queue::Queue;
use crate::report::{Counts, Outcome};
use crate::rng::{Purpose, Rng, mix};
use crate::scenario::{FIRST_OPENING, Scenario};
use crate::server::{Push, Server};
use crate::terminal::Terminal;
use event::{Channel, Event, Fetched};

/// When the plan of the first wave is made: at closing, some seconds before the start.
const PLANNED_AT: Now = Now::from_secs(1);
/// How long a run goes on after everybody has completed: late acknowledgements, notices and returning terminals are still to keep to the rules.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How often it is looked whether whoever is not complete cannot be for want of budget.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The link of a pair, the one that offers first. The ends learn of its end at different times.
#[derive(Debug, Default)]
struct Pair {
    generation: u64,
    up: [bool; 2],
    trying: bool,
    failures: u32,
}

/// What the server has pushed to a terminal and the terminal has not taken.
#[derive(Debug, Default)]
struct Stream {
    waiting: VecDeque<(u64, Push)>,
    last: u64,
    session: Option<u64>,
    /// The terminal does not know that earlier pushes were lost.
    torn: bool,
    floor: Now,
}

/// How often a server that could not do what is due tries again.
const WORK_EVERY: Duration = Duration::from_millis(100);

/// One run.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    content: Content,
    now: Now,
    queue: Queue<Event>,
    terminals: Vec<Terminal>,
    network: Network,
    server: Server,
    streams: Vec<Stream>,
    said_floor: Vec<Now>,
    pairs: BTreeMap<(usize, usize), Pair>,
    /// Messages between terminals that a partition holds up.
    held_up: Vec<(Channel, Option<Box<Frame>>, u64)>,
    server_away: bool,
    /// Rises each time the server goes away.
    incarnation: u64,
    /// Of a thousand messages to and from the server, how many come twice or late.
    repeats: u64,
    origin_free_at: Now,
    sessions: u64,
    generations: u64,
    invariants: Invariants,
    violation: Option<Violation>,
    retries: Rng,
    mischief: Rng,
    sampling: Rng,
    /// Faults that have not struck or not ended, and terminals that are to come.
    unsettled: usize,
    looked_at: Now,
    digest: u64,
    steps: u64,
    counts: Counts,
    /// Waves that have been planned.
    planned: u32,
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let content = Content::new(scenario.seed, &scenario.chunks);
        let identities: Vec<Identity> = (0..scenario.terminals.len()).map(|index| Identity::new(scenario.seed, index)).collect();
        let server = Server::new(&scenario, &content, &identities);
        let terminals: Vec<Terminal> =
            identities.into_iter().zip(&scenario.terminals).map(|(identity, spec)| Terminal::new(identity, spec.up)).collect();
        let mut world = Self {
            network: Network::new(&scenario),
            server,
            streams: terminals.iter().map(|_| Stream::default()).collect(),
            said_floor: vec![Now::ZERO; terminals.len()],
            terminals,
            content,
            now: Now::ZERO,
            queue: Queue::new(),
            pairs: BTreeMap::new(),
            held_up: Vec::new(),
            server_away: false,
            incarnation: 0,
            repeats: 0,
            origin_free_at: Now::ZERO,
            sessions: 0,
            generations: 0,
            invariants: Invariants::new(scenario.budget.0),
            violation: None,
            retries: Rng::new(scenario.seed, Purpose::Retries),
            mischief: Rng::new(scenario.seed, Purpose::Mischief),
            sampling: Rng::new(scenario.seed, Purpose::Sampling),
            unsettled: 0,
            looked_at: Now::ZERO,
            digest: mix(scenario.seed),
            steps: 0,
            counts: Counts::default(),
            planned: 0,
            scenario,
        };
        world.post_beginning();
        world
    }

    fn post_beginning(&mut self) {
        for terminal in 0..self.terminals.len() {
            let at = self.scenario.terminals[terminal].from + self.retries.time(Duration::ZERO, Duration::from_millis(500));
            self.queue.post(at, Event::SwitchedOn { terminal });
        }
        self.queue.post(PLANNED_AT, Event::WavePlanned { wave: 0 });
        for (wave, &opens) in (0u32..).zip(&self.scenario.waves) {
            if wave > 0 {
                self.queue.post(opens, Event::WavePlanned { wave });
            }
            self.queue.post(opens, Event::WaveOpens { wave });
        }
        for (fault, struck) in self.scenario.faults.iter().enumerate() {
            self.queue.post(struck.at, Event::Strikes { fault });
        }
        self.unsettled = self.scenario.faults.len() + self.terminals.len() + 2 * self.scenario.waves.len();
    }

    /// Runs to the end, or to the first broken promise.
    pub fn run(mut self) -> Outcome {
        let mut ends_at = self.scenario.limit;
        let mut completed = None;
        while let Some(at) = self.queue.next_at() {
            if at > ends_at || self.violation.is_some() {
                break;
            }
            let Some((at, event)) = self.queue.pop() else { break };
            self.now = at;
            self.steps += 1;
            self.digest(&event);
            self.take(event);
            let done = self.unsettled == 0 && self.all_complete();
            if done && completed.is_none() {
                completed = Some(self.now);
                ends_at = self.now + AFTERMATH;
            } else if completed.is_none() && self.unsettled == 0 && self.now >= self.looked_at + LOOK_EVERY {
                self.looked_at = self.now;
                if self.who_is_stuck().is_empty() {
                    // Whoever is left cannot be helped within the budget.
                    break;
                }
            }
        }
        self.conclude()
    }

    fn digest(&mut self, event: &Event) {
        let nanos = u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX);
        let (kind, first, second) = event.marks();
        self.digest = mix(mix(mix(self.digest ^ nanos) ^ kind << 56 ^ first << 28) ^ second);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::SwitchedOn { terminal } => {
                self.unsettled -= 1;
                self.switch_on(terminal);
            }
            Event::Connects { terminal, life } => self.connects(terminal, life),
            Event::Detaches { terminal, session } => self.detaches(terminal, session),
            Event::Refreshes { terminal, session } => self.refreshes(terminal, session),
            Event::Says { terminal, life, session, says } => self.heard_by_server(terminal, life, session, says),
            Event::Pushed { terminal, session, position, push } => self.pushed(terminal, session, position, push),
            Event::LinkTried { a, b } => self.link_tried(a, b),
            Event::LinkOpens { a, b } => self.link_opens(a, b),
            Event::LinkLost { a, b, generation } => self.link_lost(a, b, generation),
            Event::Arrives { channel, frame, bytes } => {
                let at = self.network.receive(channel.to, bytes, self.now);
                self.queue.post(at, Event::Delivered { channel, frame });
            }
            Event::Delivered { channel, frame } => self.delivered(channel, frame),
            Event::Stored { terminal, life, chunk } => self.stored(terminal, life, chunk),
            Event::FetchAsked { terminal, life, chunk } => self.fetch_asked(terminal, life, chunk),
            Event::OriginSends { terminal, life, chunk, paid } => self.origin_sends(terminal, life, chunk, paid),
            Event::OriginSent { terminal, life, chunk, incarnation } => self.origin_sent(terminal, life, chunk, incarnation),
            Event::Fetched { terminal, life, chunk, fetched } => self.fetched(terminal, life, chunk, fetched),
            Event::Wakes { terminal, life, at } => self.wakes(terminal, life, at),
            Event::WavePlanned { wave } => self.wave_planned(wave),
            Event::WaveOpens { wave } => self.wave_opens(wave),
            Event::Strikes { fault } => self.strikes(fault),
            Event::Ends { fault } => self.fault_ends(fault),
        }
    }

    fn wave_planned(&mut self, wave: u32) {
        // What is due is done in its order.
        if self.server_away || wave > self.planned {
            return self.queue.post(self.now + WORK_EVERY, Event::WavePlanned { wave });
        }
        self.planned += 1;
        self.unsettled -= 1;
        if let Err(error) = self.server.plan_wave(wave, self.now) {
            self.broken(Invariant::PlanAccepted, format!("wave {wave}: {error}"));
        }
        self.after_server();
    }

    fn wave_opens(&mut self, wave: u32) {
        if self.server_away || wave >= self.planned {
            return self.queue.post(self.now + WORK_EVERY, Event::WaveOpens { wave });
        }
        self.unsettled -= 1;
        self.server.open_wave(wave, self.now);
        self.after_server();
    }

    fn broken(&mut self, invariant: Invariant, detail: String) {
        self.violation.get_or_insert(Violation { invariant, detail });
    }

    fn check(&mut self, checked: crate::invariants::Checked) {
        if let Err(violation) = checked {
            self.violation.get_or_insert(violation);
        }
    }

    fn planner(&self) -> &Planner {
        &self.server.planner
    }

    fn opening_of(&self, terminal: usize) -> Now {
        self.scenario.waves.get(self.scenario.terminals[terminal].wave as usize).copied().unwrap_or(FIRST_OPENING)
    }
}
