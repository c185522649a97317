//! The WebSocket itself: who is let in, what ends it, and what survives it.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one message among many; a new kind changes nothing for it")]

mod ending;
mod entering;
pub(crate) mod outage;
mod pairs;

use futures_util::{SinkExt, StreamExt};
use protocol::ErrorCode;
use protocol::ws::ServerMessage;
use tokio_tungstenite::tungstenite::Message;

use crate::app::swarm::tests::machine::{PATIENCE, Socket};

/// Reads until the server closes; answers the errors it said before, and the reason of its close frame if it sent one.
async fn read_to_the_end(socket: &mut Socket) -> (Vec<ErrorCode>, Option<String>) {
    let mut errors = Vec::new();
    let reading = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    if let ServerMessage::Error { code, .. } = serde_json::from_str(&text).unwrap() {
                        errors.push(code);
                    }
                }
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.reason.to_string()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    let reason = tokio::time::timeout(3 * PATIENCE, reading).await.expect("the server did not close");
    (errors, reason)
}

async fn say(socket: &mut Socket, text: impl Into<String>) {
    socket.send(Message::text(text.into())).await.unwrap();
}
