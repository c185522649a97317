//! Network namespaces on one bridge: one for the origin, one per terminal, and one for the bridge itself, so that deleting the namespaces
//! deletes everything. Each end has one `eth0`; what it sends is shaped there, what it receives at the bridge's port.
//!
//! ```text
//! spillway-lab-origin   eth0 ──tbf u_s──► p00 ┐
//! spillway-lab-01       eth0 ──tbf u_1──► p01 ├ br0, in spillway-lab-bridge
//!                            ◄──tbf d──── p01 ┘
//! ```

use std::fs::{File, TryLockError};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use protocol::BitsPerSecond;
use rustix::process::{Pid, Signal, kill_process};

use super::plan::{ORIGIN_ADDRESS, Plan, terminal_address};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// What the lab's namespaces begin with, and nobody else's: at its start the lab deletes all of them.
const PREFIX: &str = "spillway-lab-";
pub(super) const ORIGIN: &str = "spillway-lab-origin";
const BRIDGE: &str = "spillway-lab-bridge";
/// The interface that every namespace but the bridge's has.
pub(super) const INTERFACE: &str = "eth0";

/// Namespaces belong to the machine, so the lock does too.
const LOCK: &str = "/run/spillway-lab.lock";

/// For processes that the kernel cannot end at once.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// A token bucket as deep as a home router's first burst, and a queue that is full after 80 ms.
const BUCKET: [&str; 4] = ["burst", "32kb", "latency", "80ms"];

/// Inside of a namespace: no router solicitations and neighbour searches of a protocol that nobody uses here, a bridge that asks no packet filter, as a
/// switch, and the congestion control that Linux has by default, whatever this machine's is.
const SETTINGS: &str = "for all in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ -e $all ] && echo 1 > $all; done; \
                        for all in /proc/sys/net/bridge/bridge-nf-call-*; do [ -e $all ] && echo 0 > $all; done; \
                        echo cubic > /proc/sys/net/ipv4/tcp_congestion_control || true";

/// A terminal's namespace; `index` from 0.
pub(super) fn terminal_namespace(index: usize) -> String {
    format!("{PREFIX}{:02}", index + 1)
}

/// The only lab on this machine, for as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: File,
}

impl Claim {
    /// Claims the machine, and removes what a lab that was killed has left.
    pub(super) fn take() -> Result<Self, Failure> {
        let path = Path::new(LOCK);
        let lock = File::create(path).map_err(|error| Failure::file("write", path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::told("another lab runs on this machine: the two would measure each other; wait until it ends"));
            }
            Err(TryLockError::Error(error)) => return Err(Failure::file("lock", path, &error)),
        }
        for name in leftovers(&succeed(&words(&["ip", "netns", "list"]))?) {
            eprintln!("xtask: removing {name}, which an earlier lab left");
            remove(&name)?;
        }
        Ok(Self { _lock: lock })
    }
}

/// The namespaces of one run; deleted when this is dropped.
#[derive(Debug)]
pub(super) struct Network {
    names: Vec<String>,
}

impl Network {
    /// Makes and shapes every link.
    pub(super) fn create(plan: &Plan, interrupt: &Interrupt) -> Result<Self, Failure> {
        let mut network = Self { names: Vec::new() };
        for name in names(plan) {
            interrupt.check()?;
            network.names.push(name.clone());
            succeed(&words(&["ip", "netns", "add", &name]))?;
        }
        for command in commands(plan) {
            interrupt.check()?;
            succeed(&command)?;
        }
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(failure) = remove(name) {
                eprintln!("xtask: {failure}");
            }
        }
    }
}

fn names(plan: &Plan) -> Vec<String> {
    let own = [BRIDGE.to_owned(), ORIGIN.to_owned()];
    own.into_iter().chain((0..plan.terminals()).map(terminal_namespace)).collect()
}

/// Everything from empty namespaces to shaped links, in order.
fn commands(plan: &Plan) -> Vec<Vec<String>> {
    let mut commands = vec![
        words(&["ip", "netns", "exec", BRIDGE, "sh", "-c", SETTINGS]),
        words(&["ip", "-n", BRIDGE, "link", "add", "br0", "type", "bridge", "stp_state", "0", "mcast_snooping", "0"]),
        words(&["ip", "-n", BRIDGE, "link", "set", "br0", "up"]),
    ];
    // Receipts and requests are all that the origin receives: nothing to shape.
    commands.extend(link(ORIGIN, "p00", ORIGIN_ADDRESS, plan.origin_line(), None));
    let down = BitsPerSecond::from_mbit(plan.peer_down_mbit);
    for index in 0..plan.terminals() {
        let port = format!("p{:02}", index + 1);
        commands.extend(link(&terminal_namespace(index), &port, terminal_address(index), plan.line(index), Some(down)));
    }
    commands
}

fn link(namespace: &str, port: &str, address: Ipv4Addr, up: BitsPerSecond, down: Option<BitsPerSecond>) -> Vec<Vec<String>> {
    let address = format!("{address}/24");
    // A segment of 64 KiB that the card would have cut is larger than the bucket, and no line carries one. "gso" leaves datagrams that are sent many at a
    // time in one piece.
    let offloads = ["tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off"];
    let mut commands = vec![
        words(&["ip", "netns", "exec", namespace, "sh", "-c", SETTINGS]),
        words(&["ip", "-n", BRIDGE, "link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns", namespace]),
        words(&["ip", "-n", BRIDGE, "link", "set", port, "master", "br0", "up"]),
        words(&["ip", "-n", namespace, "addr", "add", &address, "dev", INTERFACE]),
        words(&["ip", "-n", namespace, "link", "set", "lo", "up"]),
        words(&["ip", "-n", namespace, "link", "set", INTERFACE, "up"]),
        words(&[&["ip", "netns", "exec", namespace, "ethtool", "-K", INTERFACE][..], &offloads].concat()),
        words(&[&["ip", "netns", "exec", BRIDGE, "ethtool", "-K", port][..], &offloads].concat()),
        shape(namespace, INTERFACE, up),
    ];
    commands.extend(down.map(|down| shape(BRIDGE, port, down)));
    commands
}

fn shape(namespace: &str, interface: &str, rate: BitsPerSecond) -> Vec<String> {
    let rate = format!("{}bit", rate.0);
    let shape = ["tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf", "rate", &rate];
    words(&[&shape[..], &BUCKET].concat())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The lab's own names in what `ip netns list` prints: `NAME` or `NAME (id: N)` a line.
fn leftovers(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect()
}

/// Ends what still runs in a namespace of the lab, and deletes it. Works after a signal too: leaving it behind is no way to stop.
fn remove(name: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + END_DEADLINE;
    loop {
        // A namespace whose file was made but never mounted has no processes to list.
        let listed = succeed(&words(&["ip", "netns", "pids", name])).unwrap_or_default();
        let pids: Vec<Pid> = listed.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect();
        if pids.is_empty() || Instant::now() > deadline {
            break;
        }
        for pid in pids {
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
    match succeed(&words(&["ip", "netns", "delete", name])) {
        Ok(_) => Ok(()),
        // It was never made.
        Err(_) if !Path::new("/run/netns").join(name).exists() => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Runs one command of the system to its end, which takes milliseconds, and gives its output. A Ctrl-C does not reach it.
fn succeed(command: &[String]) -> Result<String, Failure> {
    let (program, arguments) = command.split_first().ok_or_else(|| Failure::told("an empty command"))?;
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).output();
    let output = output.map_err(|error| Failure::told(format!("cannot run {program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::told(format!("`{}` failed ({}): {reason}", command.join(" "), output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::faults::{Fault, Kind};
    use crate::lab::plan::System;
    use crate::lab::plan::tests::plan;

    #[test]
    fn only_the_labs_own_namespaces_are_leftovers() {
        let list = "spillway-lab-origin (id: 3)\nsomebody\nspillway-lab-02\nmy-spillway-lab-01\nspillway\n";
        assert_eq!(leftovers(list), ["spillway-lab-origin", "spillway-lab-02"]);
        assert!(leftovers("").is_empty());
    }

    #[test]
    fn each_uplink_is_shaped_at_its_terminal_by_what_it_carries_and_each_downlink_at_the_bridge() {
        let slow = Fault { kind: Kind::Slow { honest: false }, terminals: vec![1] };
        let plan = Plan { fault: Some(slow), ..plan(System::Spillway, vec![2, 23]) };
        let commands: Vec<String> = commands(&plan).iter().map(|command| command.join(" ")).collect();
        let shaped: Vec<&String> = commands.iter().filter(|command| command.starts_with("tc ")).collect();
        let tail = "burst 32kb latency 80ms";
        assert_eq!(
            shaped,
            [
                &format!("tc -n spillway-lab-origin qdisc add dev eth0 root tbf rate 20000000bit {tail}"),
                &format!("tc -n spillway-lab-01 qdisc add dev eth0 root tbf rate 2000000bit {tail}"),
                &format!("tc -n spillway-lab-bridge qdisc add dev p01 root tbf rate 50000000bit {tail}"),
                &format!("tc -n spillway-lab-02 qdisc add dev eth0 root tbf rate 2300000bit {tail}"),
                &format!("tc -n spillway-lab-bridge qdisc add dev p02 root tbf rate 50000000bit {tail}"),
            ]
        );
    }

    #[test]
    fn both_ends_of_every_link_are_without_offloads() {
        let commands: Vec<String> = commands(&plan(System::Http, vec![2, 23])).iter().map(|command| command.join(" ")).collect();
        let without = commands.iter().filter(|command| command.ends_with("tso off gso off gro off tx-udp-segmentation off"));
        assert_eq!(without.count(), 6);
    }

    #[test]
    fn a_failed_command_is_quoted_with_its_reason() {
        let failure = succeed(&words(&["sh", "-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(failure.contains("exit 3") && failure.contains("broken"), "{failure}");
        assert!(succeed(&words(&["/no/such/program"])).is_err());
    }
}
