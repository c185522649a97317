//! Offers of terminals that no plan names yet. Offers and plans come from different hands, and an offer may overtake the plan that it follows: declined, it
//! would cost the pair a wait that grows. So the latest offer of each sender is kept for a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::TerminalId;
use tokio::time::Instant;

/// A few groups' worth of neighbours; the server passes on at most 16 KiB each.
const OFFERS_MAX: usize = 64;
/// A plan that is on its way is here by then, and the other end still waits for the answer.
const KEPT_FOR: Duration = Duration::from_secs(5);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct EarlyOffer {
    pub(super) session: u64,
    pub(super) sdp: String,
    pub(super) at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct EarlyOffers {
    offers: BTreeMap<TerminalId, EarlyOffer>,
}

impl EarlyOffers {
    /// Keeps an offer in place of an earlier one of the same sender. Returns the one to decline if there is no room: the oldest.
    pub(super) fn keep(&mut self, from: TerminalId, offer: EarlyOffer) -> Option<(TerminalId, u64)> {
        self.offers.insert(from, offer);
        if self.offers.len() <= OFFERS_MAX {
            return None;
        }
        let oldest = self.offers.iter().min_by_key(|(_, offer)| offer.at).map(|(from, offer)| (*from, offer.session));
        oldest.inspect(|(from, _)| _ = self.offers.remove(from))
    }

    pub(super) fn take(&mut self, from: TerminalId) -> Option<EarlyOffer> {
        self.offers.remove(&from)
    }

    /// Drops what was kept long enough, and returns it to be declined.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(TerminalId, u64)> {
        let expired: Vec<_> =
            self.offers.iter().filter(|(_, offer)| offer.at + KEPT_FOR <= now).map(|(from, offer)| (*from, offer.session)).collect();
        for (from, _) in &expired {
            self.offers.remove(from);
        }
        expired
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.offers.values().map(|offer| offer.at + KEPT_FOR).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> TerminalId {
        TerminalId::from_bytes([u8::try_from(number).unwrap(); 16])
    }

    fn offer(session: u64, at: Instant) -> EarlyOffer {
        EarlyOffer { session, sdp: String::new(), at }
    }

    #[test]
    fn the_latest_offer_of_a_sender_is_kept_until_it_is_taken_or_too_old() {
        let (mut early, start) = (EarlyOffers::default(), Instant::now());
        assert_eq!(early.next_expiry(), None);
        assert_eq!(early.keep(id(1), offer(10, start)), None);
        assert_eq!(early.keep(id(1), offer(11, start + Duration::from_secs(1))), None);
        assert_eq!(early.keep(id(2), offer(20, start + Duration::from_secs(2))), None);
        assert_eq!(early.take(id(1)).map(|offer| offer.session), Some(11));
        assert_eq!(early.take(id(1)), None);
        assert_eq!(early.next_expiry(), Some(start + Duration::from_secs(7)));
        assert_eq!(early.expire(start + Duration::from_millis(6_999)), []);
        assert_eq!(early.expire(start + Duration::from_secs(7)), [(id(2), 20)]);
        assert_eq!(early.next_expiry(), None);
    }

    #[test]
    fn when_there_is_no_room_the_oldest_offer_is_declined() {
        let (mut early, start) = (EarlyOffers::default(), Instant::now());
        for number in 0..OFFERS_MAX {
            let at = start + Duration::from_millis(u64::try_from(OFFERS_MAX - number).unwrap());
            assert_eq!(early.keep(id(number), offer(number as u64, at)), None);
        }
        let last = u64::try_from(OFFERS_MAX).unwrap() - 1;
        assert_eq!(early.keep(id(200), offer(200, start + Duration::from_secs(1))), Some((id(OFFERS_MAX - 1), last)));
        assert!(early.take(id(200)).is_some() && early.take(id(OFFERS_MAX - 1)).is_none());
    }
}
