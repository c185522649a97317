//! Presence and pushes.

use protocol::SwarmId;
use protocol::ws::{PushMessage, PushPosition};

use super::*;

fn numbered(number: u64) -> PushMessage {
    PushMessage::Earned { swarm_id: SwarmId::from_bytes([1; 16]), earned: protocol::Amount(number) }
}

async fn read(fixture: &Fixture, after: PushPosition) -> Vec<(u64, PushMessage)> {
    match fixture.live.pushes(terminal(0), "t", after, at(0)).await.unwrap() {
        Pushes::Next(list) => list.into_iter().map(|(position, message)| (position.offset, message)).collect(),
        Pushes::Gap(_) | Pushes::Replaced => panic!("the pushes are not there"),
    }
}

/// Waits until the listener is woken, with a deadline.
async fn woken(listener: &Listener) {
    tokio::time::timeout(Duration::from_secs(5), listener.woken()).await.expect("the session was not woken");
}

#[tokio::test]
async fn a_terminal_that_comes_back_reads_on_where_it_stopped() {
    let fixture = Fixture::new().await;
    let attached = fixture.live.attach(terminal(0), "t", at(0)).await.unwrap();
    for number in 1..=100 {
        fixture.live.push(terminal(0), &numbered(number), at(0)).await.unwrap();
    }
    let first = read(&fixture, attached.end).await;
    assert_eq!(first.len(), 64, "a bounded number at once");
    assert_eq!(first[0], (1, numbered(1)));
    let rest = read(&fixture, PushPosition { offset: 64, ..attached.end }).await;
    assert_eq!((rest.len(), rest.last().cloned()), (36, Some((100, numbered(100)))));
    assert_eq!(read(&fixture, PushPosition { offset: 100, ..attached.end }).await, []);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn pushes_that_were_cut_off_or_lost_are_a_gap_and_not_silence() {
    let fixture = Fixture::new().await;
    let attached = fixture.live.attach(terminal(0), "t", at(0)).await.unwrap();
    for number in 1..=514 {
        fixture.live.push(terminal(0), &numbered(number), at(0)).await.unwrap();
    }
    let end = PushPosition { offset: 514, ..attached.end };
    let gap = |after| fixture.live.pushes(terminal(0), "t", after, at(0));
    assert_eq!(gap(attached.end).await.unwrap(), Pushes::Gap(end));
    assert_eq!(read(&fixture, PushPosition { offset: 2, ..attached.end }).await[0], (3, numbered(3)));
    assert_eq!(gap(PushPosition { offset: 515, ..attached.end }).await.unwrap(), Pushes::Gap(end), "a position that never was");
    fixture.lose_everything().await;
    let Pushes::Gap(position) = gap(end).await.unwrap() else { panic!("a lost stream goes on as if nothing had happened") };
    assert!(position.epoch != end.epoch && position.offset == 0);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_push_wakes_the_session_on_another_instance() {
    let fixture = Fixture::new().await;
    let other = Live::connect(&redis_url(), &fixture.namespace).await.unwrap();
    let attached = fixture.live.attach(terminal(0), "t", at(0)).await.unwrap();
    woken(&attached.listener).await;
    other.push(terminal(0), &numbered(1), at(0)).await.unwrap();
    // The wake-up of the subscription itself may come between.
    while read(&fixture, attached.end).await.is_empty() {
        woken(&attached.listener).await;
    }
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_newer_websocket_of_the_same_terminal_takes_the_place_of_the_older_one() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    let old = live.attach(terminal(0), "old", at(0)).await.unwrap();
    assert_eq!(live.refresh(terminal(0), "old", at(0)).await.unwrap(), Refreshed::Owner(old.end));
    let new = live.attach(terminal(0), "new", at(0)).await.unwrap();
    assert_eq!(new.end, old.end, "the stream goes on");
    woken(&old.listener).await;
    assert_eq!(live.pushes(terminal(0), "old", old.end, at(0)).await.unwrap(), Pushes::Replaced);
    assert_eq!(live.refresh(terminal(0), "old", at(0)).await.unwrap(), Refreshed::Replaced);
    assert!(!live.detach(terminal(0), "old", at(0)).await.unwrap(), "the terminal is still there");
    assert_eq!(live.connected(&[terminal(1), terminal(0)]).await.unwrap(), [terminal(0)]);
    assert!(live.detach(terminal(0), "new", at(0)).await.unwrap());
    assert_eq!(live.connected(&[terminal(0)]).await.unwrap(), []);
    assert!(!live.push_to_connected(terminal(0), &numbered(1), at(0)).await.unwrap());
    fixture.lose_everything().await;
}

#[tokio::test]
async fn after_a_loss_the_next_refresh_makes_the_terminal_present_again_in_a_new_epoch() {
    let fixture = Fixture::new().await;
    let attached = fixture.live.attach(terminal(0), "t", at(0)).await.unwrap();
    fixture.lose_everything().await;
    assert_eq!(fixture.live.connected(&[terminal(0)]).await.unwrap(), []);
    let Refreshed::Owner(end) = fixture.live.refresh(terminal(0), "t", at(0)).await.unwrap() else { panic!("replaced by nobody") };
    assert_ne!(end.epoch, attached.end.epoch);
    assert_eq!(fixture.live.connected(&[terminal(0)]).await.unwrap(), [terminal(0)]);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn one_report_about_a_connected_terminal_is_not_enough_and_two_of_the_same_reporter_neither() {
    let fixture = Fixture::new().await;
    let (live, swarm) = (&fixture.live, SwarmId::from_bytes([1; 16]));
    live.attach(terminal(0), "t", at(0)).await.unwrap();
    assert!(!live.suspect(swarm, terminal(0), terminal(1), 2, at(0)).await.unwrap());
    assert!(!live.suspect(swarm, terminal(0), terminal(1), 2, at(100)).await.unwrap());
    assert!(!live.suspect(swarm, terminal(0), terminal(2), 2, at(5_102)).await.unwrap(), "the first report is too old");
    assert!(live.suspect(swarm, terminal(0), terminal(1), 2, at(5_200)).await.unwrap());
    assert!(live.suspect(swarm, terminal(5), terminal(1), 2, at(0)).await.unwrap(), "it is not even connected");
    fixture.lose_everything().await;
}

#[tokio::test]
async fn progress_is_shown_as_it_was_last_reported() {
    let fixture = Fixture::new().await;
    let delivery = protocol::DeliveryId::from_bytes([1; 16]);
    let progress = protocol::ws::Progress { verified: protocol::Bytes(7), ..Default::default() };
    fixture.live.set_progress(delivery, &progress).await.unwrap();
    let other = protocol::DeliveryId::from_bytes([2; 16]);
    assert_eq!(fixture.live.progress(&[other, delivery]).await.unwrap(), [None, Some(progress)]);
    fixture.lose_everything().await;
}
