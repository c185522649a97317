//! One WebSocket from its opening to its end.
//!
//! Five things run side by side on one thread: the writer (see [`super::outbox`]), the reader, the forwarder of pushes, the keys that fall due
//! ([`super::keys`]), and a watch that ends the session when the terminal is silent, its token expires or the instance stops. The first end is the end of all.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use actix_ws::{AggregatedMessage, AggregatedMessageStream, MessageStream, ProtocolError};
use protocol::ErrorCode;
use protocol::rest::Measurement;
use protocol::ws::{ClientMessage, MESSAGE_MAX, RECEIPTS_MAX};
use tokio::time::Instant;
use tracing::Instrument;

use super::audits::Audits;
use super::handshake::{self, Claim, Greeted, HELLO_WITHIN};
use super::keys::Keys;
use super::messages::{self, Desk};
use super::observing::Observed;
use super::outbox::{Closing, Outbox};
use super::pushes::{Forwarder, Links};
use crate::app::quarantines::SHUT_OUT;
use crate::app::swarm::{self, allocation};
use crate::auth::Caller;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

/// How often the terminal is pinged.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long nothing at all may come from it: three pings.
const SILENT_FOR: Duration = Duration::from_secs(15);
/// Messages that cannot be read before the session ends: a terminal of another version may send some kinds that are not known here.
const MALFORMED_MAX: u32 = 10;
/// The most messages per second that are carried out; faster ones wait in the socket. A terminal in eight busy swarms sends some 50.
const MESSAGES_PER_SECOND: u32 = 200;
/// Messages that may come at once before that counts, as after a reconnection.
const BURST: u32 = 400;
/// The most receipts per second: each costs a check of a signature. A terminal that hears from forty others sends some 200.
const RECEIPTS_PER_SECOND: u32 = 1_000;
/// Receipts that may come at once before that counts: everything that a terminal signed while it was away.
const RECEIPTS_BURST: u32 = 4_000;

/// Runs a session of a client in a `region`, if its address tells one. Never fails: whatever happens, the terminal's place is given up in good order.
pub(super) async fn run(state: AppState, caller: Caller, region: Option<u16>, sink: actix_ws::Session, stream: MessageStream) {
    // One more byte than allowed, so that a message that is too long is read and refused by name; longer ones end the connection.
    let stream = stream.max_frame_size(MESSAGE_MAX + 1).aggregate_continuations().max_continuation_size(MESSAGE_MAX + 1);
    let (outbox, writer) = Outbox::new(sink);
    metrics::gauge!("spillway_websockets").increment(1.0);
    let talk = async {
        let span = tracing::info_span!("websocket", user_id = %caller.user_id);
        let ended = converse(&state, caller, region, &outbox, stream).instrument(span).await;
        outbox.close(ended);
        ended
    };
    let (ended, ()) = tokio::join!(talk, writer);
    metrics::gauge!("spillway_websockets").decrement(1.0);
    metrics::counter!("spillway_websockets_closed_total", "reason" => format!("{ended:?}")).increment(1);
}

async fn converse(state: &AppState, caller: Caller, region: Option<u16>, outbox: &Outbox, mut stream: AggregatedMessageStream) -> Closing {
    let greeted = tokio::select! {
        greeted = greet(state, caller, outbox, &mut stream) => greeted,
        closing = outbox.closed() => Err(closing),
        () = tokio::time::sleep(HELLO_WITHIN) => Err(Closing::Silent),
        () = stopped(state) => Err(Closing::Stopping),
    };
    let greeted = match greeted {
        Ok(greeted) => greeted,
        Err(closing) => return closing,
    };
    let (terminal, token) = (greeted.terminal, greeted.token.clone());
    tracing::info!(%terminal, "connected");
    if region.is_some() {
        keep(state, terminal, Measurement { region, ..Measurement::default() }).await;
    }
    let (links, observed) = (Links::default(), Observed::default());
    let ended = serve(state, caller, outbox, stream, greeted, (&links, &observed)).await;
    tracing::info!(%terminal, reason = ?ended, "disconnected");
    if let Err(error) = messages::note_rates(state, terminal, observed.rest()).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "the last rates seen are not kept");
    }
    // A quarantine stands in the WebSocket's place, and ends with it.
    let token = if ended == Closing::ShutOut { SHUT_OUT } else { token.as_str() };
    give_up(state, terminal, token, &links).await;
    ended
}

async fn stopped(state: &AppState) {
    let mut stopping = state.stopping.clone();
    // An error means that whoever could say so is gone, and with it the instance.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// The handshake, up to the welcome.
async fn greet(state: &AppState, caller: Caller, outbox: &Outbox, stream: &mut AggregatedMessageStream) -> Result<Greeted, Closing> {
    let greeting = async {
        let nonce = handshake::challenge(outbox)?;
        let Some(text) = first_text(stream, outbox).await? else { return Ok(None) };
        let claim = Claim::from_message(messages::read(&text)?)?;
        handshake::welcome(state, outbox, caller, &nonce, claim).await.map(Some)
    };
    match greeting.await {
        Ok(Some(greeted)) => Ok(greeted),
        Ok(None) => Err(Closing::Gone),
        Err(error) => {
            outbox.refuse(&error);
            Err(if error.code.is_retryable() { Closing::Unavailable } else { Closing::Refused })
        }
    }
}

async fn first_text(stream: &mut AggregatedMessageStream, outbox: &Outbox) -> Result<Option<String>, ApiError> {
    loop {
        match stream.recv().await {
            Some(Ok(AggregatedMessage::Text(text))) => return Ok(Some(text.to_string())),
            Some(Ok(AggregatedMessage::Ping(payload))) => outbox.pong(payload),
            Some(Ok(AggregatedMessage::Pong(_))) => {}
            Some(Ok(AggregatedMessage::Close(_))) | None => return Ok(None),
            Some(Ok(AggregatedMessage::Binary(_))) => return Err(not_a_text()),
            Some(Err(error)) => return Err(unreadable(&error)),
        }
    }
}

fn not_a_text() -> ApiError {
    ApiError::new(ErrorCode::MalformedMessage).detail("Messages are texts.")
}

fn unreadable(error: &ProtocolError) -> ApiError {
    if matches!(error, ProtocolError::Overflow) {
        return ApiError::new(ErrorCode::PayloadTooLarge).detail(format!("At most {MESSAGE_MAX} bytes."));
    }
    ApiError::new(ErrorCode::MalformedMessage).detail("The frame cannot be read.")
}

/// Everything between the welcome and the end.
async fn serve(
    state: &AppState,
    caller: Caller,
    outbox: &Outbox,
    stream: AggregatedMessageStream,
    greeted: Greeted,
    (links, observed): (&Links, &Observed),
) -> Closing {
    let Greeted { terminal, token, attachment, position } = greeted;
    if let Err(error) = links.load(state, terminal).await {
        outbox.refuse(&error);
        return Closing::Unavailable;
    }
    let heard_at = Cell::new(Instant::now());
    let synced_at = Cell::new(None);
    let (keys, audits) = (Keys::default(), Audits::default());
    let desk = Desk { state, outbox, links, observed, keys: &keys, audits: &audits, terminal, synced_at: &synced_at };
    let forwarder =
        Forwarder { state, outbox, links, terminal, token: &token, listener: attachment.listener, position, untold: BTreeMap::new() };
    let expiry = (caller.expires_at - clock::now()).try_into().unwrap_or(Duration::ZERO);
    tokio::select! {
        closing = listen(desk, stream, &heard_at) => closing,
        () = forwarder.run() => Closing::Gone,
        () = keys.send_when_due(state, outbox, terminal) => Closing::Gone,
        () = audits.ask_now_and_then(state, outbox, links, terminal) => Closing::Gone,
        () = watch_silence(outbox, &heard_at, observed) => Closing::Silent,
        () = tokio::time::sleep(expiry) => Closing::Expired,
        () = stopped(state) => Closing::Stopping,
        closing = outbox.closed() => closing,
    }
}

/// Keeps what the session has seen of its terminal. That it cannot be kept now is no reason to end anything.
async fn keep(state: &AppState, terminal: protocol::TerminalId, measured: Measurement) {
    let store = state.store.clone();
    if let Err(error) = state.to_the_end(async move { store.set_measurement(terminal, &measured, clock::now()).await }).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "how the terminal communicates is not kept");
    }
}

async fn watch_silence(outbox: &Outbox, heard_at: &Cell<Instant>, observed: &Observed) {
    let mut ticks = tokio::time::interval(PING_EVERY);
    loop {
        ticks.tick().await;
        if heard_at.get().elapsed() >= SILENT_FOR {
            return;
        }
        observed.pinged(Instant::now());
        outbox.ping();
    }
}

/// Reads and carries out messages until the terminal closes or breaks the protocol.
async fn listen(desk: Desk<'_>, mut stream: AggregatedMessageStream, heard_at: &Cell<Instant>) -> Closing {
    let (mut malformed, mut throttle) = (0, Throttle::new(MESSAGES_PER_SECOND, BURST, Instant::now()));
    let mut receipts_throttle = Throttle::new(RECEIPTS_PER_SECOND, RECEIPTS_BURST, Instant::now());
    loop {
        let received = stream.recv().await;
        heard_at.set(Instant::now());
        let read = match received {
            Some(Ok(AggregatedMessage::Text(text))) => messages::read(&text),
            Some(Ok(AggregatedMessage::Binary(_))) => Err(not_a_text()),
            Some(Ok(AggregatedMessage::Ping(payload))) => {
                desk.outbox.pong(payload);
                continue;
            }
            Some(Ok(AggregatedMessage::Pong(_))) => {
                if let Some(least) = desk.observed.ponged(Instant::now()) {
                    keep(desk.state, desk.terminal, Measurement { round_trip_ms: Some(least), ..Measurement::default() }).await;
                }
                continue;
            }
            Some(Ok(AggregatedMessage::Close(_))) | None => return Closing::Gone,
            Some(Err(error)) => {
                let error = unreadable(&error);
                desk.outbox.refuse(&error);
                return if error.code == ErrorCode::PayloadTooLarge { Closing::TooLarge } else { Closing::Refused };
            }
        };
        tokio::time::sleep_until(throttle.next(1, Instant::now())).await;
        if let Ok(ClientMessage::Receipts { receipts }) = &read {
            let count = u32::try_from(receipts.len().min(RECEIPTS_MAX)).unwrap_or(u32::MAX);
            tokio::time::sleep_until(receipts_throttle.next(count, Instant::now())).await;
        }
        let handled = match read {
            Ok(message) => desk.handle(message).await,
            Err(error) => Err(error),
        };
        heard_at.set(Instant::now());
        let Err(error) = handled else { continue };
        desk.outbox.refuse(&error);
        if error.code == ErrorCode::PayloadTooLarge {
            return Closing::TooLarge;
        }
        malformed += u32::from(error.code == ErrorCode::MalformedMessage);
        if malformed >= MALFORMED_MAX {
            desk.outbox.refuse_with(ErrorCode::MalformedMessage, "Too many messages could not be read.");
            return Closing::Refused;
        }
    }
}

/// Slows down a terminal that sends more than it needs to; what waits fills the socket and stops the sender.
#[derive(Debug)]
struct Throttle {
    /// Between two at the steady rate.
    step: Duration,
    /// What may come at once, as time at the steady rate.
    burst: Duration,
    /// When the last one would have been due at the steady rate.
    due: Instant,
}

impl Throttle {
    fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let step = Duration::from_secs(1) / per_second;
        Self { step, burst: step * burst, due: now.checked_sub(step * burst).unwrap_or(now) }
    }

    /// When the next `count` may be carried out.
    fn next(&mut self, count: u32, now: Instant) -> Instant {
        self.due = self.due.max(now.checked_sub(self.burst).unwrap_or(now)) + self.step * count;
        self.due.max(now)
    }
}

/// The terminal is gone: it is no longer present, and what it leases goes to others. Not if a newer WebSocket stands for it.
async fn give_up(state: &AppState, terminal: protocol::TerminalId, token: &str, links: &Links) {
    let gone = match state.live.detach(terminal, token, clock::now()).await {
        Ok(gone) => gone,
        Err(error) => return tracing::debug!(error = &error as &dyn std::error::Error, "the presence ends by itself"),
    };
    for swarm_id in links.swarms().into_iter().filter(|_| gone) {
        let left = match swarm::member(state, swarm_id, terminal).await {
            Ok(member) => allocation::leave(state, &member).await,
            Err(error) => Err(error),
        };
        if let Err(error) = left {
            tracing::debug!(error = &error as &dyn std::error::Error, %swarm_id, "the group notices by itself that the terminal is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_is_slowed_to_the_steady_rate() {
        let start = Instant::now();
        let mut throttle = Throttle::new(MESSAGES_PER_SECOND, BURST, start);
        let waits: Vec<Duration> = (0..BURST + 200).map(|_| throttle.next(1, start) - start).collect();
        assert!(waits[..BURST as usize].iter().all(Duration::is_zero));
        assert_eq!(waits.last(), Some(&Duration::from_secs(1)));
        assert!(throttle.next(1, start + Duration::from_secs(30)) <= start + Duration::from_secs(30), "it recovers");
    }

    #[test]
    fn receipts_are_slowed_by_their_number_and_not_by_that_of_their_messages() {
        let start = Instant::now();
        let mut throttle = Throttle::new(RECEIPTS_PER_SECOND, RECEIPTS_BURST, start);
        let messages = RECEIPTS_BURST / 40;
        assert!((0..messages).all(|_| throttle.next(40, start) == start), "what was signed while it was away");
        assert_eq!(throttle.next(40, start) - start, Duration::from_millis(40));
        assert_eq!(throttle.next(1, start) - start, Duration::from_millis(41));
    }
}
