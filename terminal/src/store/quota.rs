//! Which editions give way to a new one, so that a folder keeps within its quota. A decision: facts in, outcome out.
//!
//! What was useful least recently goes first, and nothing goes that the room is there without. What has to stay (see [`Stays`]) never goes. What the new
//! edition takes chunks from goes last, and only behind the taking over.

use std::time::SystemTime;

use protocol::Bytes;

/// Something that lies in the folder and goes as a whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// What is free when it has gone.
    pub bytes: Bytes,
    /// When it was last completed, passed on, used for an update or asked for.
    pub useful_at: SystemTime,
    pub standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Free,
    /// The new edition takes chunks from it: it may go when they are taken over.
    Source,
    Stays(Stays),
}

/// Why something must not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// It is being received, passed on or served, or another new edition takes chunks from it.
    InUse,
    /// Its release or its download has not ended, so that this terminal may owe it to others.
    Owed,
    /// Whether it is owed only the server knows, which does not say.
    Unknown,
}

/// What a new edition wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub quota: Bytes,
    /// The most that the edition takes up at once.
    pub most: Bytes,
    /// What it and the others that are being received will take up beyond what they do.
    pub to_come: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It fits when these have gone, by their places in the list: `now` before it begins, `later` when their chunks are taken over. Least useful first.
    Fits { now: Vec<usize>, later: Vec<usize> },
    /// `missing` too much has to stay.
    Blocked { missing: Bytes },
    /// It is larger than the quota.
    TooLarge,
}

/// Decides for one new edition. `kept` is everything that lies in the folder, what there is of the edition itself included.
#[must_use]
pub fn decide(wish: Wish, kept: &[Candidate]) -> Verdict {
    if wish.most > wish.quota {
        return Verdict::TooLarge;
    }
    let taken = kept.iter().fold(u128::from(wish.to_come.0), |sum, candidate| sum + u128::from(candidate.bytes.0));
    let excess = taken.saturating_sub(u128::from(wish.quota.0));
    let (mut chosen, mut freed) = (Vec::new(), 0);
    for index in in_order(kept) {
        if freed >= excess {
            break;
        }
        freed += u128::from(kept[index].bytes.0);
        chosen.push(index);
    }
    if freed < excess {
        return Verdict::Blocked { missing: Bytes(u64::try_from(excess - freed).unwrap_or(u64::MAX)) };
    }
    // The last one may be so large that an earlier one need not go.
    for place in (0..chosen.len()).rev() {
        let without = freed - u128::from(kept[chosen[place]].bytes.0);
        if without >= excess {
            freed = without;
            chosen.remove(place);
        }
    }
    let (now, later) = chosen.into_iter().partition(|&index| kept[index].standing == Standing::Free);
    Verdict::Fits { now, later }
}

/// What may go and leaves room, the first to go first.
fn in_order(kept: &[Candidate]) -> Vec<usize> {
    let rank = |candidate: &Candidate| match candidate.standing {
        Standing::Free => Some(0),
        Standing::Source => Some(1),
        Standing::Stays(_) => None,
    };
    let may_go = |(index, candidate): (usize, &Candidate)| {
        rank(candidate).filter(|_| candidate.bytes.0 > 0).map(|rank| (rank, candidate.useful_at, index))
    };
    let mut order: Vec<_> = kept.iter().enumerate().filter_map(may_go).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, _, index)| index).collect()
}

#[cfg(test)]
mod tests;
