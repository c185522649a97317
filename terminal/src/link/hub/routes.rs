//! Whose a packet is. All links of a hub share its sockets, so the other end's address tells, and where that is new or has changed, the user name of
//! its connectivity check (RFC 8445, section 7.2.2): it begins with the fragment that only the description of the one link names.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::super::channel::LinkId;

/// The length of a STUN header; the attributes follow.
const STUN_HEADER_BYTES: usize = 20;
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const USERNAME: u16 = 0x0006;

/// The local address that a packet came to and the other end's.
pub(super) type Pair = (SocketAddr, SocketAddr);

#[derive(Debug, Default)]
pub(super) struct Routes {
    pairs: HashMap<Pair, LinkId>,
    /// By the user name fragment of this end.
    fragments: HashMap<String, LinkId>,
}

impl Routes {
    pub(super) fn add(&mut self, id: LinkId, fragment: String) {
        self.fragments.insert(fragment, id);
    }

    pub(super) fn remove(&mut self, id: LinkId) {
        self.pairs.retain(|_, link| *link != id);
        self.fragments.retain(|_, link| *link != id);
    }

    /// The link that `packet` is for. A check that names a link makes the pair that link's, whatever it was before: two links between the same two
    /// sockets follow each other when one is opened anew.
    pub(super) fn inbound(&mut self, pair: Pair, packet: &[u8]) -> Option<LinkId> {
        if let Some(id) = checked_fragment(packet).and_then(|fragment| self.fragments.get(fragment)) {
            self.pairs.insert(pair, *id);
            return Some(*id);
        }
        self.pairs.get(&pair).copied()
    }

    /// Notes that link `id` sends over `pair`, so that answers find it. A pair that is another link's stays so until a check says otherwise.
    pub(super) fn outbound(&mut self, pair: Pair, id: LinkId) {
        self.pairs.entry(pair).or_insert(id);
    }
}

/// The user name fragment of this end that a binding request is addressed to: the part of its USERNAME before the colon.
fn checked_fragment(packet: &[u8]) -> Option<&str> {
    let header = packet.get(..STUN_HEADER_BYTES)?;
    if header[..2] != BINDING_REQUEST || header[4..8] != STUN_COOKIE {
        return None;
    }
    let mut rest = &packet[STUN_HEADER_BYTES..];
    while let Some((kind, after)) = split_u16(rest) {
        let (length, value) = split_u16(after)?;
        let value_bytes = usize::from(length);
        if kind == USERNAME {
            let name = std::str::from_utf8(value.get(..value_bytes)?).ok()?;
            return name.split(':').next();
        }
        // Values are padded to four bytes (RFC 8489, section 14).
        rest = value.get(value_bytes.next_multiple_of(4)..)?;
    }
    None
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn check(username: &str) -> Vec<u8> {
        let attributes = [attribute(0x0024, &[0; 4]), attribute(0x8022, b"abc"), attribute(USERNAME, username.as_bytes())].concat();
        let mut packet = BINDING_REQUEST.to_vec();
        packet.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
        packet.extend(STUN_COOKIE);
        packet.extend([9; 12]);
        packet.extend(attributes);
        packet
    }

    fn pair(port: u16) -> Pair {
        (SocketAddr::from(([192, 0, 2, 1], 1)), SocketAddr::from(([192, 0, 2, 2], port)))
    }

    #[test]
    fn a_check_is_the_links_that_it_names_and_what_follows_from_there_too() {
        let mut routes = Routes::default();
        routes.add(LinkId(1), "abcd".to_owned());
        assert_eq!(routes.inbound(pair(5), &[20, 254]), None);
        assert_eq!(routes.inbound(pair(5), &check("abcd:wxyz")), Some(LinkId(1)));
        assert_eq!(routes.inbound(pair(5), &[20, 254]), Some(LinkId(1)));
        assert_eq!(routes.inbound(pair(6), &[20, 254]), None);
        assert_eq!(routes.inbound(pair(5), &check("nobody:wxyz")), Some(LinkId(1)), "an unknown name says nothing");
    }

    #[test]
    fn a_link_that_is_opened_anew_between_the_same_sockets_takes_over() {
        let mut routes = Routes::default();
        routes.add(LinkId(1), "old".to_owned());
        routes.add(LinkId(2), "new".to_owned());
        routes.outbound(pair(5), LinkId(1));
        routes.outbound(pair(5), LinkId(2));
        assert_eq!(routes.inbound(pair(5), &[22]), Some(LinkId(1)));
        assert_eq!(routes.inbound(pair(5), &check("new:x")), Some(LinkId(2)));
        assert_eq!(routes.inbound(pair(5), &[22]), Some(LinkId(2)));
        routes.remove(LinkId(2));
        assert_eq!(routes.inbound(pair(5), &[22]), None);
        assert_eq!(routes.inbound(pair(5), &check("new:x")), None);
    }

    #[test]
    fn cut_and_damaged_checks_name_nobody() {
        let whole = check("abcd:wxyz");
        assert_eq!(checked_fragment(&whole), Some("abcd"));
        for length in 0..whole.len() - "abcd:wxyz".len().next_multiple_of(4) + "abcd:wxyz".len() {
            assert_eq!(checked_fragment(&whole[..length]), None, "{length} bytes");
        }
        let mut other_class = whole.clone();
        other_class[0] = 0x01;
        assert_eq!(checked_fragment(&other_class), None);
        let mut other_cookie = whole.clone();
        other_cookie[4] = 0;
        assert_eq!(checked_fragment(&other_cookie), None);
    }
}
