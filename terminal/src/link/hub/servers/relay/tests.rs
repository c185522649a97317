//! The client against a TURN server that does what each test says.

use rtc::crypto;
use rtc::stun::attributes::{ATTR_MESSAGE_INTEGRITY, ATTR_NONCE, ATTR_REALM, ATTR_USERNAME};
use rtc::stun::error_code::{ErrorCode, ErrorCodeAttribute};
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{CLASS_SUCCESS_RESPONSE, MessageClass};
use rtc::stun::textattrs::TextAttribute;

use super::*;

const REALM: &str = "example.org";
const LIFETIME: Duration = Duration::from_secs(600);

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], port))
}

/// A client and the server that it speaks to.
struct Pair {
    relay: Relay,
    crypto: Arc<dyn RTCCryptoProvider>,
    now: Instant,
    nonce: &'static str,
}

impl Pair {
    fn new() -> Self {
        let crypto = crypto::default_provider().unwrap();
        let now = Instant::now();
        let credentials = Credentials { username: "ann".to_owned(), password: "secret".to_owned() };
        let mut relay = Relay::new(address(3478), credentials, &crypto, now);
        assert!(relay.ask(now));
        Self { relay, crypto, now, nonce: "first" }
    }

    /// One with an address.
    fn allocated() -> Self {
        let mut pair = Self::new();
        pair.challenged(401);
        let request = pair.request();
        assert_eq!(request.typ.method, METHOD_ALLOCATE);
        pair.grant(&request);
        assert_eq!(pair.relay.relayed(), Some(address(5000)));
        pair
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.relay.packets().collect()
    }

    /// The one request that the client has sent.
    fn request(&mut self) -> Message {
        let sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        let mut message = Message::new();
        message.raw = sent[0].clone();
        message.decode().unwrap();
        message
    }

    fn key(&self) -> Vec<u8> {
        MessageIntegrity::long_term_integrity_key("ann".into(), REALM.into(), "secret".into(), self.crypto.crypto()).unwrap()
    }

    fn is_signed(&self, request: &Message) -> bool {
        let mut copy = Message::new();
        copy.raw = request.raw.clone();
        copy.decode().unwrap();
        let text = |attribute| TextAttribute::get_from_as(request, attribute).map(|text| text.text).unwrap_or_default();
        let names = (text(ATTR_USERNAME), text(ATTR_REALM), text(ATTR_NONCE));
        names == ("ann".to_owned(), REALM.to_owned(), self.nonce.to_owned())
            && MessageIntegrity::check(&mut copy, &self.key(), self.crypto.crypto()).is_ok()
    }

    fn answer<'a>(&'a self, to: &Message, class: MessageClass, mut attributes: Vec<Box<dyn Setter + 'a>>, key: Option<Vec<u8>>) -> Message {
        attributes.insert(0, Box::new(to.transaction_id));
        attributes.insert(1, Box::new(MessageType::new(to.typ.method, class)));
        if let Some(key) = key {
            attributes.push(Box::new(MessageIntegrity::new_raw_integrity_with_provider(key, self.crypto.crypto())));
        }
        let mut message = Message::new();
        message.build(&attributes).unwrap();
        let mut read = Message::new();
        read.raw = message.raw;
        read.decode().unwrap();
        read
    }

    /// The server takes a request that is signed.
    fn grant(&mut self, request: &Message) {
        assert!(self.is_signed(request));
        let response = self.granting(request, self.key());
        self.relay.response(response, self.now);
    }

    fn granting(&self, request: &Message, key: Vec<u8>) -> Message {
        let mut attributes: Vec<Box<dyn Setter>> = vec![Box::new(Lifetime(LIFETIME))];
        if request.typ.method == METHOD_ALLOCATE {
            attributes.push(Box::new(RelayedAddress { ip: address(0).ip(), port: 5000 }));
            attributes.push(Box::new(XorMappedAddress { ip: address(0).ip(), port: 4000 }));
        }
        self.answer(request, CLASS_SUCCESS_RESPONSE, attributes, Some(key))
    }

    fn refuse(&mut self, request: &Message, code: u16) {
        let refusal = ErrorCodeAttribute { code: ErrorCode(code), reason: b"why".to_vec() };
        let mut attributes: Vec<Box<dyn Setter>> = vec![Box::new(refusal)];
        if code == 401 || code == 438 {
            attributes.push(Box::new(TextAttribute::new(ATTR_REALM, REALM.to_owned())));
            attributes.push(Box::new(TextAttribute::new(ATTR_NONCE, self.nonce.to_owned())));
        }
        let response = self.answer(request, CLASS_ERROR_RESPONSE, attributes, None);
        self.relay.response(response, self.now);
    }

    /// The next request is answered by a challenge with the server's nonce.
    fn challenged(&mut self, code: u16) {
        let request = self.request();
        self.refuse(&request, code);
    }

    /// Lets time go by, in which the server grants whatever it is asked for. Returns what it was asked for.
    fn pass(&mut self, time: Duration) -> Vec<Message> {
        let until = self.now + time;
        let mut requests = Vec::new();
        loop {
            let next = self.relay.deadline().unwrap_or(until).max(self.now);
            if next > until {
                self.now = until;
                return requests;
            }
            self.now = next;
            self.relay.round(next);
            for packet in self.sent() {
                let mut message = Message::new();
                message.raw = packet;
                message.decode().unwrap();
                self.grant(&message);
                requests.push(message);
            }
        }
    }

    fn send(&mut self, to: u16, text: &[u8]) {
        self.relay.send(address(to), BytesMut::from(text), self.now);
    }

    /// A channel to `port`, open.
    fn bound(&mut self, port: u16) -> u16 {
        self.send(port, b"first");
        let request = self.request();
        let number = number_of(&request);
        self.grant(&request);
        assert_eq!(self.sent(), [framed(number, b"first").unwrap()], "what waited goes out");
        number
    }
}

fn number_of(request: &Message) -> u16 {
    assert_eq!(request.typ.method, METHOD_CHANNEL_BIND);
    let mut number = ChannelNumber::default();
    number.get_from(request).unwrap();
    number.0
}

fn methods(requests: &[Message]) -> Vec<Method> {
    requests.iter().map(|request| request.typ.method).collect()
}

#[test]
fn an_address_comes_after_one_challenge_with_how_the_socket_looks_from_outside() {
    let mut pair = Pair::new();
    let first = pair.request();
    assert!(!first.contains(ATTR_MESSAGE_INTEGRITY) && !pair.relay.is_settled());
    pair.refuse(&first, 401);
    let second = pair.request();
    assert!(pair.is_signed(&second));
    pair.grant(&second);
    assert_eq!((pair.relay.relayed(), pair.relay.mapped()), (Some(address(5000)), Some(address(4000))));
    assert!(pair.relay.is_settled() && pair.relay.complaint().is_none());
}

#[test]
fn credentials_that_are_not_taken_are_complained_of_once_and_not_repeated_to_the_server() {
    let mut pair = Pair::new();
    pair.challenged(401);
    pair.challenged(401);
    assert_eq!(pair.relay.relayed(), None);
    assert!(pair.relay.is_settled() && pair.sent().is_empty());
    let complaint = pair.relay.complaint().unwrap();
    assert!(complaint.contains("does not take the credentials") && complaint.contains("401 why"), "{complaint}");
    assert_eq!(pair.relay.complaint(), None);
}

#[test]
fn a_server_that_is_full_or_silent_leaves_the_terminal_without_and_may_be_asked_again() {
    let mut full = Pair::new();
    full.challenged(401);
    full.challenged(486);
    assert_eq!(full.relay.complaint().as_deref(), Some("486 why"));
    assert!(full.relay.ask(full.now) && !full.relay.is_settled());

    let mut silent = Pair::new();
    while let Some(next) = silent.relay.deadline() {
        silent.relay.round(next);
    }
    assert_eq!(silent.relay.complaint().as_deref(), Some("it does not answer"));
    assert!(silent.relay.is_settled());
}

#[test]
fn a_nonce_that_has_become_stale_is_replaced_and_the_request_repeated_whatever_it_was() {
    let mut pair = Pair::allocated();
    pair.nonce = "second";
    pair.now += REFRESH_EVERY;
    pair.relay.round(pair.now);
    pair.challenged(438);
    let refresh = pair.request();
    assert_eq!(refresh.typ.method, METHOD_REFRESH);
    pair.grant(&refresh);

    pair.nonce = "third";
    pair.send(7000, b"hello");
    let stale = pair.request();
    pair.refuse(&stale, 438);
    let bind = pair.request();
    assert_eq!(number_of(&bind), number_of(&stale), "a channel keeps its number");
    pair.grant(&bind);
    assert_eq!(pair.sent(), [framed(number_of(&bind), b"hello").unwrap()]);
}

#[test]
fn a_server_that_calls_every_nonce_stale_is_not_asked_for_ever() {
    let mut pair = Pair::new();
    for _ in 0..=3 {
        let request = pair.request();
        pair.refuse(&request, if request.contains(ATTR_MESSAGE_INTEGRITY) { 438 } else { 401 });
    }
    assert!(pair.sent().is_empty());
    assert_eq!(pair.relay.complaint().as_deref(), Some("438 why"));
}

#[test]
fn what_somebody_else_says_in_the_servers_name_is_not_believed() {
    let mut pair = Pair::new();
    pair.challenged(401);
    let request = pair.request();
    let forged = pair.granting(&request, vec![7; 16]);
    pair.relay.response(forged, pair.now);
    assert_eq!(pair.relay.relayed(), None);
    pair.grant(&request);
    assert_eq!(pair.relay.relayed(), Some(address(5000)), "the true one still counts");
}

#[test]
fn packets_wait_for_their_channel_and_then_go_over_it_in_order_to_whom_they_are_for() {
    let mut pair = Pair::allocated();
    let number = pair.bound(7000);
    pair.send(7000, b"second");
    assert_eq!(pair.sent(), [framed(number, b"second").unwrap()]);
    let other = pair.bound(7001);
    assert_ne!(number, other);
    let padded = [&framed(other, b"answer").unwrap()[..], &[0, 0]].concat();
    assert_eq!(pair.relay.channel_data(BytesMut::from(&padded[..])), Some((address(7001), BytesMut::from(&b"answer"[..]))));
    assert_eq!(pair.relay.channel_data(BytesMut::from(&framed(0x4FFF, b"of nobody").unwrap()[..])), None);
    for cut in 0..framed(number, b"cut").unwrap().len() {
        assert_eq!(pair.relay.channel_data(BytesMut::from(&framed(number, b"cut").unwrap()[..cut])), None);
    }
}

#[test]
fn what_comes_from_somebody_without_a_channel_is_passed_on_too() {
    let pair = Pair::allocated();
    let mut message = Message::new();
    let peer = PeerAddress { ip: address(0).ip(), port: 7002 };
    let kind = MessageType::new(METHOD_DATA, CLASS_INDICATION);
    message.build(&[Box::new(TransactionId::new()), Box::new(kind), Box::new(peer), Box::new(Data(b"check".to_vec()))]).unwrap();
    assert_eq!(pair.relay.indication(&message), Some((address(7002), BytesMut::from(&b"check"[..]))));
    message.set_type(MessageType::new(METHOD_REFRESH, CLASS_INDICATION));
    assert_eq!(pair.relay.indication(&message), None);
}

#[test]
fn the_address_is_refreshed_and_channels_in_use_are_bound_again_before_they_lapse() {
    let mut pair = Pair::allocated();
    let (used, unused) = (pair.bound(7000), pair.bound(7001));
    let mut bound = Vec::new();
    let mut refreshed = 0;
    // An hour of packets every second to one of them.
    for _ in 0..3600 {
        for request in pair.pass(Duration::from_secs(1)) {
            if request.typ.method == METHOD_CHANNEL_BIND {
                bound.push((pair.now, number_of(&request)));
            } else {
                assert_eq!(request.typ.method, METHOD_REFRESH);
                refreshed += 1;
            }
        }
        pair.send(7000, b"x");
        assert_eq!(pair.sent(), [framed(used, b"x").unwrap()], "the channel is never closed");
    }
    assert!(bound.iter().all(|(_, number)| *number == used), "{unused} is bound again, and nobody uses it");
    assert!((13..=16).contains(&bound.len()), "{}", bound.len());
    assert!((140..=144).contains(&refreshed), "{refreshed}");
    assert!(!pair.relay.numbers.contains_key(&unused), "its number is free again");
}

#[test]
fn a_channel_that_has_lapsed_is_bound_with_its_number_before_it_is_used() {
    let mut pair = Pair::allocated();
    let number = pair.bound(7000);
    pair.pass(PERMISSION_LASTS);
    pair.send(7000, b"late");
    let request = pair.request();
    assert_eq!(number_of(&request), number);
    pair.grant(&request);
    assert_eq!(pair.sent(), [framed(number, b"late").unwrap()]);
}

#[test]
fn an_other_end_that_the_server_does_not_send_to_is_left_alone_for_a_while_and_nobody_else() {
    let mut pair = Pair::allocated();
    pair.send(7000, b"a");
    pair.challenged(403);
    pair.send(7000, b"b");
    assert!(pair.sent().is_empty());
    pair.bound(7001);
    pair.pass(DENIED_FOR);
    pair.send(7000, b"c");
    assert_eq!(methods(&[pair.request()]), [METHOD_CHANNEL_BIND]);
    assert!(pair.relay.complaint().is_none() && pair.relay.relayed().is_some());
}

#[test]
fn a_server_that_was_started_anew_gives_another_address_when_the_next_link_asks() {
    let mut pair = Pair::allocated();
    pair.bound(7000);
    assert!(!pair.relay.ask(pair.now), "it has just said that it has it");
    pair.now += CONFIRMED_FOR;
    assert!(pair.relay.ask(pair.now) && !pair.relay.ask(pair.now));
    assert!(!pair.relay.is_settled());
    // It knows neither the nonce nor the address.
    pair.nonce = "of the new one";
    pair.challenged(438);
    pair.challenged(437);
    let first = pair.request();
    assert!(first.typ.method == METHOD_ALLOCATE && !first.contains(ATTR_MESSAGE_INTEGRITY));
    pair.refuse(&first, 401);
    let second = pair.request();
    pair.grant(&second);
    assert!(pair.relay.is_settled() && pair.relay.relayed().is_some());
    assert!(pair.relay.channels.is_empty() && pair.relay.complaint().is_none());
}

#[test]
fn a_channel_for_an_address_that_is_lost_asks_for_another_address() {
    let mut pair = Pair::allocated();
    pair.send(7000, b"a");
    pair.challenged(437);
    assert_eq!(methods(&[pair.request()]), [METHOD_ALLOCATE]);
    assert_eq!(pair.relay.relayed(), None);
}

#[test]
fn an_address_is_given_back_by_a_refresh_for_no_time() {
    let mut pair = Pair::allocated();
    pair.relay.close();
    let request = pair.request();
    let mut lifetime = Lifetime(LIFETIME);
    lifetime.get_from(&request).unwrap();
    assert!(request.typ.method == METHOD_REFRESH && lifetime.0.is_zero() && pair.is_signed(&request));
    pair.relay.close();
    assert!(pair.sent().is_empty());
}
