//! A sender that is faster than its receiver is held back, loses nothing, and costs bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use terminal::link::LinkConfig;
use tokio::time::Instant;

use crate::pair::{SOON, assert_is, loopback, message, open_pair, open_pair_with, within};

const MESSAGE_BYTES: usize = 64 << 10;

/// Resident memory of this process, in MiB.
fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

/// The last value of a counter that has not moved for half a second.
async fn settled(counter: &AtomicU32) -> u32 {
    let (mut last, mut since) = (counter.load(Ordering::Relaxed), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = counter.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_does_not_read_stops_the_sender_and_then_gets_everything() {
    const COUNT: u32 = 2_000;
    /// What the queues of one stopped receiver and one waiting sender hold together; see the module's description.
    const HELD_MIB_MAX: usize = 64;
    let small = LinkConfig { window_bytes: 256 << 10, send_buffer_bytes: 256 << 10, ..loopback() };
    let (ours, mut theirs) = open_pair_with(&small).await;
    let before = resident_mib();
    let sent = Arc::new(AtomicU32::new(0));
    let sender = {
        let sent = Arc::clone(&sent);
        tokio::spawn(async move {
            for number in 0..COUNT {
                ours.send(message(number, MESSAGE_BYTES)).await.expect("sent");
                sent.store(number + 1, Ordering::Relaxed);
            }
            ours
        })
    };
    let stopped_at = within(SOON, "the sender to be held back", settled(&sent)).await;
    let held_mib = (stopped_at as usize * MESSAGE_BYTES) >> 20;
    let grown_mib = resident_mib().saturating_sub(before);
    println!("held back after {stopped_at} messages, {held_mib} MiB; the process grew by {grown_mib} MiB");
    assert!(stopped_at > 0 && held_mib < HELD_MIB_MAX, "{held_mib} MiB were taken for a receiver that reads nothing");
    assert!(grown_mib < 2 * HELD_MIB_MAX, "grew by {grown_mib} MiB");
    for number in 0..COUNT {
        assert_is(&within(SOON, "a message", theirs.recv()).await.expect("received"), number, MESSAGE_BYTES);
    }
    sender.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_sets_the_pace_without_stalls() {
    const COUNT: u32 = 1_500;
    const PAUSE: Duration = Duration::from_millis(2);
    let (ours, mut theirs) = open_pair().await;
    let sender = tokio::spawn(async move {
        for number in 0..COUNT {
            ours.send(message(number, MESSAGE_BYTES)).await.expect("sent");
        }
        ours
    });
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    for number in 0..COUNT {
        let waited = Instant::now();
        assert_is(&within(SOON, "a message", theirs.recv()).await.expect("received"), number, MESSAGE_BYTES);
        longest = longest.max(waited.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    println!("{COUNT} messages in {:?}, longest wait for one {longest:?}", start.elapsed());
    assert!(longest < Duration::from_secs(3), "the link stood still for {longest:?}");
    sender.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_buffered_bytes_tell_what_is_not_acknowledged_and_a_flush_waits_for_it() {
    let (ours, mut theirs) = open_pair().await;
    let (sender, _receiver) = ours.split();
    assert_eq!(sender.buffered_bytes(), 0);
    let reader = tokio::spawn(async move {
        for number in 0..100 {
            assert_is(&theirs.recv().await.expect("received"), number, MESSAGE_BYTES);
        }
        theirs
    });
    let mut highest = 0;
    for number in 0..100 {
        sender.send(message(number, MESSAGE_BYTES)).await.expect("sent");
        highest = highest.max(sender.buffered_bytes());
    }
    let limit = LinkConfig::default().send_buffer_bytes + MESSAGE_BYTES;
    assert!((MESSAGE_BYTES..=limit).contains(&highest), "{highest} bytes buffered with a limit of {limit}");
    sender.flush(Instant::now() + SOON).await.expect("flushed");
    assert_eq!(sender.buffered_bytes(), 0);
    within(SOON, "the reader", reader).await.expect("no panic");
}
