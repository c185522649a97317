//! The end of the engine: swarms say their last words, and what the server answers to them is still heard.

use std::future::Future;
use std::time::Duration;

use protocol::SwarmId;
use protocol::ws::PushMessage;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::running::Input;
use super::super::task::Outcome;
use super::super::{EngineError, Summary};
use super::Coordinator;
use crate::socket::{Socket, SocketEvent};

/// Farewells on links may take this much of the time that a stop may take.
const FAREWELLS: Duration = Duration::from_secs(1);
/// News about money that come during a stop of three seconds: far more than are ever sent. What is beyond is told again after the next connection.
const LATE_MAX: usize = 256;

impl Coordinator {
    /// Ends all swarms in good order, closes the connection behind their last receipts, and says what they did. The connection is read to its end: who
    /// does not read it cannot be told that a delivery is settled, and in the end not even that its receipts arrived.
    pub(in crate::engine) async fn stop(
        mut self,
        mut events: mpsc::Receiver<SocketEvent>,
        socket: Socket,
        deadline: Instant,
    ) -> Result<Summary, EngineError> {
        let mut late = Vec::new();
        let ending = async {
            let _ = tokio::time::timeout_at(deadline, self.end_swarms(deadline)).await;
            socket.close(deadline).await
        };
        if !listen_while(ending, &mut events, &mut late).await {
            tracing::warn!("the server has not got all receipts; they are sent again in the next run");
        }
        // What came in the last moment is in the channel already.
        events.close();
        while let Some(event) = events.recv().await {
            note(event, &mut late);
        }
        self.active.clear();
        for (swarm, input) in late {
            self.settled(swarm, input).await;
        }
        match self.error.take() {
            Some(error) => Err(error),
            None => Ok(Summary { swarms: self.done, opened: self.opened }),
        }
    }

    async fn end_swarms(&mut self, deadline: Instant) {
        for active in self.active.values() {
            // An error means that the task is ending already.
            let _ = active.mailbox.send(Input::Stop).await;
        }
        // The swarms first: each says farewell on the links that are its own alone, behind its last receipts.
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok((_, Outcome { summary, error })) = ended {
                self.done.push(summary);
                self.error = self.error.take().or(error);
            }
        }
        self.context.links.shut_down((Instant::now() + FAREWELLS).min(deadline)).await;
    }
}

/// Waits for `work`, and takes from the socket what it says meanwhile.
async fn listen_while<T>(work: impl Future<Output = T>, events: &mut mpsc::Receiver<SocketEvent>, late: &mut Vec<(SwarmId, Input)>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            Some(event) = events.recv() => note(event, late),
        }
    }
}

/// Keeps news about money; nothing else matters to a terminal that is leaving.
fn note(event: SocketEvent, late: &mut Vec<(SwarmId, Input)>) {
    let SocketEvent::Push(message) = event else { return };
    let news = match message {
        PushMessage::Settled { swarm_id, delivery_id, charged, earned } => (swarm_id, Input::Settled { delivery_id, charged, earned }),
        PushMessage::Earned { swarm_id, earned } => (swarm_id, Input::Earned { earned }),
        PushMessage::Plan(_)
        | PushMessage::PlanChange(_)
        | PushMessage::Leave { .. }
        | PushMessage::Grant { .. }
        | PushMessage::RepairRefused { .. }
        | PushMessage::PeerGone { .. }
        | PushMessage::ReportHoldings { .. }
        | PushMessage::Signal { .. }
        | PushMessage::Reload => return,
    };
    if late.len() < LATE_MAX {
        late.push(news);
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Amount, DeliveryId, ErrorCode};

    use super::*;

    const SWARM: SwarmId = SwarmId::from_bytes([1; 16]);

    #[tokio::test]
    async fn what_the_server_says_during_a_stop_is_read_and_news_about_money_are_kept() {
        // Whoever does not read would let the socket wait at the second event.
        let (sender, mut events) = mpsc::channel(1);
        let socket = async move {
            for _ in 0..50 {
                let refused = SocketEvent::Refused { code: ErrorCode::Conflict, detail: String::new(), pointer: String::new() };
                sender.send(refused).await.unwrap();
                sender.send(SocketEvent::Push(PushMessage::Earned { swarm_id: SWARM, earned: Amount(3) })).await.unwrap();
            }
            let delivery_id = DeliveryId::from_bytes([2; 16]);
            let settled = PushMessage::Settled { swarm_id: SWARM, delivery_id, charged: Amount(100), earned: Amount(4) };
            sender.send(SocketEvent::Push(settled)).await.unwrap();
            // The socket ends before the rest of the stop does.
            drop(sender);
            tokio::task::yield_now().await;
            "closed"
        };
        let mut late = Vec::new();
        let outcome = tokio::time::timeout(Duration::from_secs(10), listen_while(socket, &mut events, &mut late)).await;
        assert_eq!(outcome.expect("the socket was not read"), "closed");
        while let Some(event) = events.recv().await {
            note(event, &mut late);
        }
        assert_eq!(late.len(), 51);
        assert!(matches!(late.last(), Some((SWARM, Input::Settled { charged: Amount(100), .. }))), "{late:?}");
    }
}
