//! Signals go between planned pairs and nowhere else.

use protocol::ErrorCode;
use protocol::ws::{ClientMessage, PushMessage, ServerMessage, Signal};

use crate::app::swarm::tests::Stage;
use crate::app::swarm::tests::stage::Script;

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_reaches_the_planned_other_and_nobody_else() {
    // Two waves: machines 0 and 1 are a pair; 2 is planned later.
    let mut stage = Stage::started(Script { ranks: &[2, 1], ..Script::default() }).await;
    stage.connect(0..2).await;
    let ids: Vec<_> = stage.machines.iter().map(|machine| machine.id()).collect();
    let offer = |to| ClientMessage::Signal { to, signal: Signal::Offer { session: 7, sdp: "v=0".to_owned() } };
    stage.machines[0].send(&offer(ids[1])).await;
    let received = stage.machines[1].push(|message| match message {
        PushMessage::Signal { from, signal } => Some((from, signal)),
        _ => None,
    });
    assert_eq!(received.await, (ids[0], Signal::Offer { session: 7, sdp: "v=0".to_owned() }));
    for stranger in [ids[2], ids[0]] {
        stage.machines[0].send(&offer(stranger)).await;
        let answers = stage.machines[0].settle_down().await;
        assert!(matches!(answers[..], [ServerMessage::Error { code: ErrorCode::NotInSwarm, .. }]), "{answers:?}");
    }
    let long = ClientMessage::Signal { to: ids[1], signal: Signal::Answer { session: 7, sdp: "v".repeat(20_000) } };
    stage.machines[0].send(&long).await;
    stage.machines[0].until(|message| matches!(message, ServerMessage::Error { code: ErrorCode::PayloadTooLarge, .. }).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_to_who_is_not_connected_is_declined_at_once() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..1).await;
    let to = stage.machines[1].id();
    stage.machines[0].send(&ClientMessage::Signal { to, signal: Signal::Offer { session: 3, sdp: "v=0".to_owned() } }).await;
    let declined = stage.machines[0].push(|message| match message {
        PushMessage::Signal { from, signal } => Some((from, signal)),
        _ => None,
    });
    assert_eq!(declined.await, (to, Signal::Decline { session: 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_resumed_may_still_signal_its_pairs() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let to = stage.machines[1].id();
    stage.machines[0].vanish();
    let position = stage.machines[0].position;
    assert!(stage.machines[0].connect(&stage.service, Some(position)).await);
    stage.machines[0].send(&ClientMessage::Signal { to, signal: Signal::Offer { session: 4, sdp: "v=0".to_owned() } }).await;
    stage.machines[1].push(|message| matches!(message, PushMessage::Signal { .. }).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_floods_another_with_signals_is_stopped_and_others_hear_it_still() {
    let mut stage = Stage::started(Script { ranks: &[3], ..Script::default() }).await;
    stage.connect(0..3).await;
    let [flooded, spared] = [stage.machines[1].id(), stage.machines[2].id()];
    let offer = |to, session| ClientMessage::Signal { to, signal: Signal::Offer { session, sdp: "v=0".to_owned() } };
    let mut refused = 0;
    // More than twice what a window allows: whenever it begins, some are refused.
    for session in 0..130 {
        stage.machines[0].send(&offer(flooded, session)).await;
    }
    for message in stage.machines[0].settle_down().await {
        match message {
            ServerMessage::Error { code: ErrorCode::TooManyRequests, pointer, .. } => {
                assert_eq!(pointer, "/to");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((10..=70).contains(&refused), "{refused} of 130");
    stage.machines[0].send(&offer(spared, 1)).await;
    stage.machines[2].push(|message| matches!(message, PushMessage::Signal { .. }).then_some(())).await;
}
