//! Random histories of a group, played to the scripts and to the model.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::super::*;
use super::pair::{MEMBERS, Pair};

/// What becomes of a chunk that may be fetched.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    Sent,
    Renewed,
    NotSent,
    Unaffordable,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Credits {
        member: u8,
        open: u32,
    },
    Join {
        member: u8,
    },
    Allocate,
    /// Notices for some of the chunks that the member leases, or (with `stray`) for any chunk.
    Notices {
        member: u8,
        pick: Vec<u8>,
        done: bool,
        stray: bool,
    },
    Leave {
        member: u8,
        bench_ms: u16,
    },
    /// The WebSocket is gone, and nobody says so.
    Vanish {
        member: u8,
    },
    Return {
        member: u8,
    },
    Missing {
        member: u8,
        pick: Vec<u8>,
        receipted: bool,
        feeders_connected: bool,
        again: u32,
        first: u32,
        doubled: u32,
    },
    /// It signs for everything, or the server learns that it had.
    Sign {
        member: u8,
        fresh: bool,
    },
    /// A chunk that the member leases, or (with `stray`) any.
    Fetch {
        member: u8,
        pick: u8,
        stray: bool,
        then: Then,
    },
    Wait {
        ms: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let member = 0..MEMBERS;
    let pick = prop::collection::vec(any::<u8>(), 1..6);
    prop_oneof![
        6 => (member.clone(), 0u32..6).prop_map(|(member, open)| Step::Credits { member, open }),
        1 => member.clone().prop_map(|member| Step::Join { member }),
        1 => Just(Step::Allocate),
        6 => (member.clone(), pick.clone(), any::<bool>(), prop::bool::weighted(0.1)).prop_map(|(member, pick, done, stray)| Step::Notices { member, pick, done, stray }),
        1 => (member.clone(), prop_oneof![Just(0u16), 1u16..9000]).prop_map(|(member, bench_ms)| Step::Leave { member, bench_ms }),
        1 => member.clone().prop_map(|member| Step::Vanish { member }),
        2 => member.clone().prop_map(|member| Step::Return { member }),
        2 => (member.clone(), pick, prop::bool::weighted(0.2), any::<bool>(), 0u32..3000, 0u32..3000, 0u32..3000)
            .prop_map(|(member, pick, receipted, feeders_connected, again, more, doubled)| {
                Step::Missing { member, pick, receipted, feeders_connected, again, first: again + more, doubled }
            }),
        2 => (member.clone(), any::<bool>()).prop_map(|(member, fresh)| Step::Sign { member, fresh }),
        5 => (member, 0u8..8, prop::bool::weighted(0.1), prop_oneof![6 => Just(Then::Sent), 1 => Just(Then::Renewed), 1 => Just(Then::NotSent), 1 => Just(Then::Unaffordable)])
            .prop_map(|(member, pick, stray, then)| Step::Fetch { member, pick, stray, then }),
        5 => prop_oneof![3 => 1u16..700, 1 => 700u16..20_000].prop_map(|ms| Step::Wait { ms }),
    ]
}

#[test]
fn the_scripts_and_the_model_agree_on_every_history_and_every_chunk_is_given() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let histories = (
        prop::collection::vec(1u32..1200, 1..60),
        [1u64..5000, 1u64..5000, 1u64..5000, 1u64..5000],
        prop::bool::weighted(0.9),
        (prop_oneof![Just(0u64), 800u64..6000], prop_oneof![1 => Just(0u64), 1 => 500u64..20_000]),
        prop::collection::vec(step(), 1..90),
    );
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 150, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&histories, |(lengths, overheads, root, in_flight_max, steps)| {
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let mut pair = Pair::new(&fixture, lengths, overheads, root, in_flight_max).await;
            for step in &steps {
                pair.step(step).await;
                assert!(pair.model.is_balanced(), "after {step:?}");
            }
            assert_eq!(fixture.lasting_keys().await, Vec::<String>::new());
            if root {
                pair.drain().await;
            }
            fixture.lose_everything().await;
        });
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
