//! Requests to a server that wait for their responses, sent again until they have them (RFC 8489, section 6.2.1).

use std::time::{Duration, Instant};

use rtc::stun::message::{Message, TransactionId};

/// When a request is sent for the second time. Each wait after it is twice as long, up to [`WAIT_MAX`].
const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_millis(1_600);
/// How often a request is sent. After some eight seconds nobody waits for a candidate any more.
const SENT_MAX: u32 = 7;

struct Pending<P> {
    id: TransactionId,
    purpose: P,
    bytes: Vec<u8>,
    sent: u32,
    wait: Duration,
    again_at: Instant,
}

/// The requests of one socket to one server, each with what it is for.
pub(super) struct Exchange<P> {
    pending: Vec<Pending<P>>,
}

impl<P> Default for Exchange<P> {
    fn default() -> Self {
        Self { pending: Vec::new() }
    }
}

impl<P> Exchange<P> {
    /// Takes a request that goes out now; returns its bytes.
    pub(super) fn begin(&mut self, request: &Message, purpose: P, now: Instant) -> Vec<u8> {
        let bytes = request.raw.clone();
        let id = request.transaction_id;
        self.pending.push(Pending { id, purpose, bytes: bytes.clone(), sent: 1, wait: WAIT_FIRST, again_at: now + WAIT_FIRST });
        bytes
    }

    pub(super) fn is_waiting_for(&self, id: TransactionId) -> bool {
        self.pending.iter().any(|pending| pending.id == id)
    }

    /// What the request was for that `id` is the response of. A second response finds nothing.
    pub(super) fn end(&mut self, id: TransactionId) -> Option<P> {
        let at = self.pending.iter().position(|pending| pending.id == id)?;
        Some(self.pending.swap_remove(at).purpose)
    }

    /// Sends again what is due, into `packets`; returns what nobody answered.
    pub(super) fn round(&mut self, now: Instant, packets: &mut Vec<Vec<u8>>) -> Vec<P> {
        for pending in self.pending.iter_mut().filter(|pending| pending.again_at <= now && pending.sent < SENT_MAX) {
            packets.push(pending.bytes.clone());
            pending.sent += 1;
            pending.wait = (pending.wait * 2).min(WAIT_MAX);
            pending.again_at = now + pending.wait;
        }
        let given_up = self.pending.extract_if(.., |pending| pending.again_at <= now);
        given_up.map(|pending| pending.purpose).collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.again_at).min()
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use rtc::stun::message::BINDING_REQUEST;

    use super::*;

    fn request() -> Message {
        let mut message = Message::new();
        message.build(&[Box::new(TransactionId::new()), Box::new(BINDING_REQUEST)]).unwrap();
        message
    }

    #[test]
    fn a_request_is_sent_seven_times_and_then_given_up() {
        let (mut exchange, begun) = (Exchange::default(), Instant::now());
        let request = request();
        assert_eq!(exchange.begin(&request, "mapping", begun), request.raw);
        let mut sent = 1;
        let (given_up, now) = loop {
            let now = exchange.deadline().unwrap();
            let mut packets = Vec::new();
            let given_up = exchange.round(now, &mut packets);
            assert!(packets.iter().all(|packet| *packet == request.raw));
            sent += packets.len();
            if !given_up.is_empty() {
                break (given_up, now);
            }
        };
        assert_eq!((given_up, sent, exchange.deadline()), (vec!["mapping"], 7, None));
        assert!((Duration::from_secs(7)..Duration::from_secs(10)).contains(&(now - begun)), "{:?}", now - begun);
        assert!(!exchange.is_waiting_for(request.transaction_id));
    }

    #[test]
    fn a_response_ends_its_request_once() {
        let (mut exchange, now) = (Exchange::default(), Instant::now());
        let (one, other) = (request(), request());
        exchange.begin(&one, 1, now);
        exchange.begin(&other, 2, now);
        assert_eq!(exchange.end(one.transaction_id), Some(1));
        assert_eq!(exchange.end(one.transaction_id), None);
        assert!(exchange.is_waiting_for(other.transaction_id));
    }
}
