//! What swarms need of what lies in the folder, for as long as they do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::{Bytes, EditionId, ReleaseId};

use crate::store::Place;

/// What swarms have to do with the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// A swarm receives or relays this delivery.
    Receiving(Place),
    /// An edition is served from wherever it lies.
    Serving(EditionId),
    /// A new edition takes chunks from this one.
    Source(Place),
}

#[derive(Debug, Default)]
pub(super) struct Uses {
    counts: BTreeMap<Use, u32>,
    /// The most that those take up at once that are being received.
    pub(super) reserved: BTreeMap<Place, Bytes>,
}

impl Uses {
    pub(super) fn has(&self, (release, edition): Place) -> bool {
        [Use::Receiving((release, edition)), Use::Serving(edition), Use::Source((release, edition))]
            .iter()
            .any(|candidate| self.counts.contains_key(candidate))
    }
}

/// Says that something is in use for as long as it lives.
#[derive(Debug)]
pub(in crate::engine) struct InUse {
    uses: Arc<Mutex<Uses>>,
    what: Use,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut uses = locked(&self.uses);
        let left = uses.counts.get_mut(&self.what).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            uses.counts.remove(&self.what);
            if let Use::Receiving(place) = self.what {
                uses.reserved.remove(&place);
            }
        }
    }
}

fn locked(uses: &Mutex<Uses>) -> MutexGuard<'_, Uses> {
    uses.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(in crate::engine) struct Keeping {
    pub(super) quota: Option<Bytes>,
    uses: Arc<Mutex<Uses>>,
    /// Held while a decision is made and carried out. Releases that have ended, which does not change.
    pub(super) ended: tokio::sync::Mutex<BTreeSet<ReleaseId>>,
}

impl Keeping {
    pub(in crate::engine) fn new(quota: Option<Bytes>) -> Self {
        Self { quota, uses: Arc::default(), ended: tokio::sync::Mutex::default() }
    }

    pub(super) fn hold(&self, what: Use) -> InUse {
        *locked(&self.uses).counts.entry(what).or_default() += 1;
        InUse { uses: Arc::clone(&self.uses), what }
    }

    /// A swarm begins that receives and relays a delivery.
    pub(in crate::engine) fn receiving(&self, place: Place) -> InUse {
        self.hold(Use::Receiving(place))
    }

    pub(super) fn uses(&self) -> MutexGuard<'_, Uses> {
        locked(&self.uses)
    }

    /// A delivery is complete: it takes up no more than it does.
    pub(in crate::engine) fn received(&self, place: Place) {
        locked(&self.uses).reserved.remove(&place);
    }

    /// A swarm begins that serves an edition. From now on it is not evicted; it may have been a moment ago.
    pub(in crate::engine) fn serving(&self, edition: EditionId) -> InUse {
        self.hold(Use::Serving(edition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(release: u8, edition: u8) -> Place {
        (ReleaseId::from_bytes([release; 16]), EditionId([edition; 32]))
    }

    #[test]
    fn x09_what_swarms_need_is_in_use_until_the_last_of_them_has_ended() {
        let keeping = Keeping::new(Some(Bytes(100)));
        let in_use = |place| locked(&keeping.uses).has(place);
        let (first, second) = (keeping.receiving(place(1, 1)), keeping.receiving(place(1, 1)));
        assert!(in_use(place(1, 1)) && !in_use(place(1, 2)), "another edition of the release is none of their business");
        assert!(!in_use(place(2, 1)), "nor is the edition by another release");
        drop(first);
        assert!(in_use(place(1, 1)));
        drop(second);
        assert!(!in_use(place(1, 1)));
        let serving = keeping.serving(EditionId([1; 32]));
        assert!(in_use(place(1, 1)) && in_use(place(2, 1)), "an edition is served from wherever it lies");
        drop(serving);
        let source = keeping.hold(Use::Source(place(2, 1)));
        assert!(in_use(place(2, 1)) && !in_use(place(1, 1)));
        drop(source);
        assert!(locked(&keeping.uses).counts.is_empty());
    }

    #[test]
    fn x09_room_is_reserved_until_a_delivery_is_complete_or_its_swarm_has_ended() {
        let keeping = Keeping::new(Some(Bytes(100)));
        let reserved = || locked(&keeping.uses).reserved.values().map(|bytes| bytes.0).sum::<u64>();
        let (one, other) = (keeping.receiving(place(1, 1)), keeping.receiving(place(2, 2)));
        locked(&keeping.uses).reserved.extend([(place(1, 1), Bytes(30)), (place(2, 2), Bytes(40))]);
        let serving = keeping.serving(EditionId([1; 32]));
        drop(serving);
        assert_eq!(reserved(), 70, "who serves reserves nothing");
        keeping.received(place(2, 2));
        assert_eq!(reserved(), 30);
        drop((one, other));
        assert_eq!(reserved(), 0);
    }
}
