//! Releases of many terminals, whose end is a long piece of work: it goes on where a dead server left it.

use std::time::{Duration, Instant};

use protocol::rest::{Chunking, Release};
use tests::database::Database;
use tests::{Plan, Stack, eventually, payload};

/// The same file that the ledger's bench makes its crowd by.
const CROWD: &str = include_str!("../../../server/src/store/testing/crowd.sql");
const CHUNKS: u32 = 24;
const CHUNK_BYTES: u32 = 65_536;
const WALLETS: u32 = 1_000;
const PRICE: u32 = 1_000;

/// What must not differ: balances, entries, ends of holds, deliveries and shares, without times and drawn ids.
const OUTCOME: &str = "
    SELECT 'wallets', count(*), sum(posted), sum(held), md5(string_agg(concat_ws(' ', account_id, posted, held, version), ';' ORDER BY account_id))
        FROM wallets WHERE account_id::text LIKE '00000002-%';
    SELECT 'entries', count(*), sum(amount), md5(string_agg(concat_ws(' ', delivery_id, kind, account, amount), ';' ORDER BY delivery_id, kind, account))
        FROM (SELECT delivery_id, accounts.kind, CASE accounts.kind WHEN 'wallet' THEN account_id END AS account, amount
              FROM entries JOIN transfers ON transfers.id = transfer_id JOIN accounts ON accounts.id = account_id) AS posted;
    SELECT 'holds', count(*), sum(posted), md5(string_agg(concat_ws(' ', hold_id, posted), ';' ORDER BY hold_id)) FROM hold_resolutions;
    SELECT 'deliveries', count(*), sum(charged), md5(string_agg(concat_ws(' ', id, state, verified_bytes, verified_chunks, charged), ';' ORDER BY id))
        FROM deliveries;
    SELECT 'shares', count(*), sum(earned), md5(string_agg(concat_ws(' ', delivery_id, source, bytes, earned), ';' ORDER BY delivery_id, source))
        FROM delivery_shares;
    SELECT 'release', state FROM releases;";

/// A release whose deadline has just passed, in a database that no server has seen since.
async fn overdue(stack: &mut Stack, deliveries: u32) -> Database {
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish_cut_by(Chunking::Fixed, "crowd", payload("crowd", (CHUNKS * CHUNK_BYTES) as usize)).await;
    assert_eq!(published.edition.chunks, CHUNKS);
    let plan = Plan { closes_in_ms: 600_000, starts_in_ms: 900_000, ..Plan::default() };
    let release: Release = publisher.schedule(&[&published], &plan).await;
    stack.kill_server().await;
    let database = stack.database();
    database.run(CROWD);
    database.run(&format!(
        "SELECT swarm_id AS swarm FROM release_editions WHERE release_id = '{0}' \\gset
         CALL make_crowd('{0}', :'swarm', {deliveries}, {WALLETS}, {PRICE}, {CHUNKS}, {CHUNK_BYTES});
         UPDATE releases SET state = 'live', opens_at = now() - interval '4 hours', closes_at = now() - interval '3 hours',
             starts_at = now() - interval '2 hours', deadline_at = now() - interval '1 second' WHERE id = '{0}';
         UPDATE due_work SET due_at = now() - interval '1 second', done_at = CASE WHEN kind <> 'deadline' THEN now() END WHERE release_id = '{0}';
         ANALYZE;",
        release.id
    ));
    database.copy()
}

fn settled(database: &Database) -> u32 {
    database.run("SELECT count(*) FROM deliveries WHERE settled_at IS NOT NULL").parse().unwrap()
}

/// Waits until the release is settled; answers what came out, with the books checked.
async fn outcome(stack: &mut Stack, within: Duration, rest: Duration) -> String {
    let database = &*stack.database();
    eventually("the release is settled", within, || async {
        tokio::time::sleep(rest).await;
        (database.run("SELECT state FROM releases") == "settled").then_some(())
    })
    .await;
    assert_eq!(database.run("SELECT count(*), sum(kept - booked) FROM ledger_discrepancies"), "0|");
    assert_eq!(database.run("SELECT sum(amount) FROM entries"), "0");
    assert_eq!(database.run("SELECT sum(held) FROM wallets"), "0");
    database.run(OUTCOME)
}

/// Settles the same release twice, once undisturbed and once with the server killed whenever so many deliveries are settled; both must come out the same.
async fn settle_with_kills(deliveries: u32, kills: u32, within: Duration) {
    // Asking takes a process and a count of all rows: not so often that it is what is measured.
    let rest = Duration::from_millis(u64::from(deliveries / 100));
    let mut stack = Stack::start().await;
    let copy = overdue(&mut stack, deliveries).await;
    let begun = Instant::now();
    stack.start_server().await;
    let undisturbed = outcome(&mut stack, within, rest).await;
    println!("{deliveries} deliveries settled in {:.1} s", begun.elapsed().as_secs_f64());
    println!("server: {} MiB resident at most", peak_mib(stack.server_id().unwrap()));
    stack.kill_server().await;

    // Away with what the first run left in Redis: it tells of a release that is over.
    stack.lose_redis();
    *stack.database() = copy;
    let seed = uuid::Uuid::new_v4().as_u128();
    println!("seed {seed:x}");
    let mut points: Vec<u32> = (0..kills).map(|kill| point(seed, kill) % (deliveries - deliveries / 50)).collect();
    points.sort_unstable();
    for (kill, at) in points.iter().enumerate() {
        stack.start_server().await;
        let database = &*stack.database();
        let so_far = eventually("enough is settled", within, || async {
            tokio::time::sleep(rest).await;
            Some(settled(database)).filter(|count| count >= at)
        })
        .await;
        stack.kill_server().await;
        println!("kill {}: at {at} or more deliveries settled, {so_far} counted", kill + 1);
    }
    stack.start_server().await;
    assert_eq!(outcome(&mut stack, within, rest).await, undisturbed);
}

fn point(seed: u128, kill: u32) -> u32 {
    let hash = blake3::hash(format!("{seed:x}/{kill}").as_bytes());
    u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap())
}

fn peak_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_settlement_that_is_killed_three_times_ends_as_the_undisturbed_one() {
    settle_with_kills(1_400, 3, Duration::from_secs(120)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: `cargo xtask test --only e2e -- --run-ignored only --no-capture -E 'test(a11_measured)'`"]
async fn a11_measured_a_settlement_of_100_000_that_is_killed_ten_times_ends_as_the_undisturbed_one() {
    settle_with_kills(100_000, 10, Duration::from_secs(1_800)).await;
}
