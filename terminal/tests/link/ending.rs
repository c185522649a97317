//! How links end: closed, dropped, killed, and what is left of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use terminal::link::{CloseReason, LOST_AFTER, Link, LinkError};
use tokio::time::Instant;

use crate::pair::{SOON, assert_is, endpoint, message, open, open_pair, soon, within};

/// Well below [`LOST_AFTER`]: an end that is told does not have to notice by itself.
const AT_ONCE: Duration = Duration::from_secs(2);

async fn reason_within(wait: Duration, link: &mut Link) -> CloseReason {
    loop {
        match within(wait, "the end of the link", link.recv()).await {
            Ok(_) => {}
            Err(LinkError::Closed(reason)) => return reason,
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_tells_the_other_end_at_once_and_every_half_knows_the_reason() {
    for offering_closes in [true, false] {
        let (ours, theirs) = open_pair().await;
        let (closing, mut other) = if offering_closes { (ours, theirs) } else { (theirs, ours) };
        let (sender, mut receiver) = closing.split();
        assert_eq!(within(AT_ONCE, "closing", sender.close()).await, CloseReason::Local);
        assert_eq!(sender.send(message(1, 10)).await, Err(LinkError::Closed(CloseReason::Local)));
        assert_eq!(receiver.recv().await, Err(LinkError::Closed(CloseReason::Local)));
        assert_eq!(receiver.closed().await, CloseReason::Local);
        assert_eq!(reason_within(AT_ONCE, &mut other).await, CloseReason::Remote);
        assert_eq!(other.send(message(1, 10)).await, Err(LinkError::Closed(CloseReason::Remote)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_last_half_tells_the_other_end_at_once_and_one_half_keeps_the_link() {
    let (ours, mut theirs) = open_pair().await;
    let (sender, receiver) = ours.split();
    drop(receiver);
    sender.send(message(1, 100)).await.expect("the sender keeps the link");
    assert_is(&within(SOON, "a message", theirs.recv()).await.expect("received"), 1, 100);
    drop(sender);
    assert_eq!(reason_within(AT_ONCE, &mut theirs).await, CloseReason::Remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_arrive_before_the_end_if_they_were_flushed() {
    const COUNT: u32 = 100;
    let (ours, mut theirs) = open_pair().await;
    let (sender, _receiver) = ours.split();
    for number in 0..COUNT {
        sender.send(message(number, 16 << 10)).await.expect("sent");
    }
    sender.flush(soon()).await.expect("flushed");
    sender.close().await;
    for number in 0..COUNT {
        assert_is(&within(SOON, "a message", theirs.recv()).await.expect("received"), number, 16 << 10);
    }
    assert_eq!(reason_within(AT_ONCE, &mut theirs).await, CloseReason::Remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_under_load_frees_a_sender_that_waits_and_tells_the_other_end() {
    for other_end_closes in [false, true] {
        let (ours, theirs) = open_pair().await;
        let (sender, receiver) = ours.split();
        let pushing = {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut number = 0;
                loop {
                    if let Err(error) = sender.send(message(number, 64 << 10)).await {
                        return (number, error);
                    }
                    number += 1;
                }
            })
        };
        // Nobody reads: the sender fills all queues and waits.
        let mut last = usize::MAX;
        within(SOON, "the queues to fill", async {
            while last != sender.buffered_bytes() || last == 0 {
                last = sender.buffered_bytes();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
        let start = Instant::now();
        let mut theirs = Some(theirs);
        let expected = if other_end_closes {
            drop(theirs.take());
            CloseReason::Remote
        } else {
            within(AT_ONCE, "closing", receiver.close()).await;
            CloseReason::Local
        };
        let (sent, error) = within(LOST_AFTER + AT_ONCE, "the waiting sender", pushing).await.expect("no panic");
        println!("{sent} messages sent, {error} after {:?}", start.elapsed());
        assert_eq!(error, LinkError::Closed(expected));
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        if let Some(mut theirs) = theirs {
            assert_eq!(reason_within(AT_ONCE, &mut theirs).await, CloseReason::Remote);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_link_that_is_dropped_ends_the_other_ends_wait() {
    let (ours, offer) = endpoint().offer().await.expect("an offer");
    let (theirs, answer) = endpoint().accept(&offer).await.expect("an answer");
    drop(theirs);
    let refused = within(LOST_AFTER + AT_ONCE, "the failure", ours.complete(Some(&answer), soon())).await;
    assert_eq!(refused.err(), Some(LinkError::Closed(CloseReason::Lost)));
}

/// Runs the named test alone in a process of its own, where nothing else opens sockets or threads. True in that process.
fn alone(name: &str) -> bool {
    const ALONE: &str = "LINK_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).args([name, "--exact", "--nocapture"]).env(ALONE, "1").status().expect("a process");
    assert!(status.success(), "{name} failed in its own process");
    false
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).expect("a folder of /proc").count()
}

#[test]
fn fifty_links_opened_and_ended_leave_no_socket_thread_or_task_behind() {
    if !alone("ending::fifty_links_opened_and_ended_leave_no_socket_thread_or_task_behind") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // Each endpoint has a thread, which stays as long as it does.
        let endpoints = [endpoint(), endpoint()];
        let (descriptors, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
        for number in 0..50 {
            cycle(&endpoints, number).await;
        }
        settle(&|| entries("/proc/self/fd") <= descriptors && runtime_tasks() == 0).await;
        println!("{descriptors} descriptors and {threads} threads before and after");
        assert_eq!(entries("/proc/self/fd"), descriptors, "descriptors left open");
        assert_eq!(entries("/proc/self/task"), threads, "threads left running");
        assert_eq!(runtime_tasks(), 0, "tasks left running");
    });
}

/// Opens a link, uses it, and ends it in one of the ways in which links end.
async fn cycle([offering, answering]: &[terminal::link::Endpoint; 2], number: u32) {
    let (ours, mut theirs) = open(offering, answering).await.expect("an open link");
    ours.send(message(number, 5_000)).await.expect("sent");
    assert_is(&within(SOON, "a message", theirs.recv()).await.expect("received"), number, 5_000);
    match number % 4 {
        0 => drop((ours, theirs)),
        1 => {
            ours.close().await;
            theirs.close().await;
        }
        2 => {
            let (sender, _receiver) = ours.split();
            sender.close().await;
            reason_within(AT_ONCE, &mut theirs).await;
        }
        _ => {
            drop(ours);
            let (pending, _offer) = offering.offer().await.expect("an offer");
            drop(pending);
        }
    }
}

fn runtime_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

async fn settle(done: &(dyn Fn() -> bool + Sync)) {
    let deadline = soon();
    while !done() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The other process of the test below: answers an offer, then sends without end until it is killed.
#[test]
#[ignore = "the other process of a_process_that_is_killed_is_noticed"]
fn the_process_that_is_killed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let offer = std::io::stdin().lines().next().expect("an offer").expect("a line");
        let offer: String = serde_json::from_str(&offer).expect("an offer");
        let (pending, answer) = endpoint().accept(&offer).await.expect("an answer");
        println!("ANSWER {}", serde_json::to_string(&answer).expect("text"));
        let link = pending.complete(None, soon()).await.expect("an open link");
        for number in 0.. {
            if link.send(message(number, 1_000)).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Starts the other process and opens a link to it.
async fn link_to_another_process() -> (Child, Link) {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["ending::the_process_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let (pending, offer) = endpoint().offer().await.expect("an offer");
    writeln!(child.stdin.as_mut().expect("input"), "{}", serde_json::to_string(&offer).expect("text")).expect("written");
    let output = BufReader::new(child.stdout.take().expect("output"));
    let answer = output.lines().map_while(Result::ok).find_map(|line| line.split_once("ANSWER ").map(|(_, answer)| answer.to_owned()));
    let answer: String = serde_json::from_str(&answer.expect("an answer")).expect("text");
    let link = pending.complete(Some(&answer), soon()).await.expect("an open link");
    (child, link)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_is_noticed_by_receiver_and_waiting_sender() {
    let (mut child, mut link) = link_to_another_process().await;
    for number in 0..10 {
        assert_is(&within(SOON, "a message", link.recv()).await.expect("received"), number, 1_000);
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    let start = Instant::now();
    let (sender, mut receiver) = link.split();
    let pushing = tokio::spawn(async move {
        loop {
            if let Err(error) = sender.send(message(0, 64 << 10)).await {
                return error;
            }
        }
    });
    let bound = LOST_AFTER + Duration::from_secs(3);
    let reason = within(bound, "noticing the death", async {
        loop {
            if let Err(error) = receiver.recv().await {
                return error;
            }
        }
    })
    .await;
    println!("noticed after {:?}", start.elapsed());
    assert_eq!(reason, LinkError::Closed(CloseReason::Lost));
    let waiting = within(AT_ONCE, "the waiting sender", pushing).await.expect("no panic");
    assert_eq!(waiting, LinkError::Closed(CloseReason::Lost));
}
