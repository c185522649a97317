use super::*;
use protocol::ws::LeaveReason;
use protocol::{Blake3, DeliveryId, EditionId, ReleaseId, TerminalId, TimestampMs};
use std::time::Duration;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
const SWARM: SwarmId = SwarmId::from_bytes([1; 16]);
const RELAY_TEXT: &str = "07070707-0707-0707-0707-070707070707";
const SWARM_TEXT: &str = "01010101-0101-0101-0101-010101010101";

fn plan(epoch: u64) -> EngineEvent {
    EngineEvent::Plan {
        swarm_id: SWARM,
        release_id: ReleaseId::from_bytes([2; 16]),
        edition_id: EditionId([3; 32]),
        epoch,
        rank: 2,
        root: false,
        peers: 5,
        opens_at: TimestampMs(1_795_262_410_000),
    }
}

fn completed() -> EngineEvent {
    EngineEvent::Completed {
        swarm_id: SWARM,
        release_id: ReleaseId::from_bytes([2; 16]),
        path: "out/film.bin".into(),
        blake3: Blake3([4; 32]),
        length: Bytes(1000),
        elapsed: Some(Duration::from_millis(1250)),
    }
}

fn settled() -> EngineEvent {
    EngineEvent::Settled { swarm_id: SWARM, delivery_id: DeliveryId::from_bytes([5; 16]), charged: Amount(220), earned: Amount(12) }
}

fn replaced(source: TerminalId) -> EngineEvent {
    let relay = TerminalId::from_bytes([7; 16]);
    EngineEvent::Replaced { swarm_id: SWARM, relay, source, chunk: 9, silent_for: Duration::from_millis(640) }
}

fn disk_full() -> EngineEvent {
    EngineEvent::DiskFull { swarm_id: SWARM, dir: "got".into(), needed: Bytes(3 << 20), free: Bytes(4096) }
}

fn evicted() -> EngineEvent {
    let (release_id, edition_id) = (ReleaseId::from_bytes([8; 16]), EditionId([9; 32]));
    EngineEvent::Evicted { swarm_id: SWARM, release_id, edition_id, path: "got/old.bin".into(), bytes: Bytes(3 << 20) }
}

fn quota_full(stays: Vec<Stays>) -> EngineEvent {
    let (release_id, edition_id) = (ReleaseId::from_bytes([8; 16]), EditionId([9; 32]));
    let protected = stays.into_iter().map(|why| Protected { release_id, edition_id, path: "got/a".into(), bytes: Bytes(2 << 20), why });
    EngineEvent::QuotaFull {
        swarm_id: SWARM,
        dir: "got".into(),
        quota: Bytes(10 << 20),
        needed: Bytes(5 << 20),
        kept: Bytes(6 << 20),
        missing: Bytes(1 << 20),
        protected: protected.collect(),
    }
}

fn every_event() -> Vec<EngineEvent> {
    vec![
        EngineEvent::Connected { resumed: false },
        EngineEvent::Disconnected { reason: "closed".into() },
        plan(1),
        EngineEvent::Opened { swarm_id: SWARM, verified: Bytes(1), to_fetch: Bytes(1), total: Bytes(2) },
        disk_full(),
        EngineEvent::DiskRoom { swarm_id: SWARM },
        evicted(),
        quota_full(vec![Stays::Owed]),
        EngineEvent::QuotaRoom { swarm_id: SWARM },
        EngineEvent::Progress { swarm_id: SWARM, progress: Progress::default(), total: Bytes(2) },
        replaced(TerminalId::from_bytes([8; 16])),
        completed(),
        EngineEvent::Sealed { swarm_id: SWARM, release_id: ReleaseId::from_bytes([2; 16]), key_at: None },
        EngineEvent::KeyCame { swarm_id: SWARM },
        settled(),
        EngineEvent::Earned { swarm_id: SWARM, earned: Amount(3) },
        EngineEvent::Left { swarm_id: SWARM, reason: LeaveReason::Settled },
        EngineEvent::Failed { swarm_id: SWARM, release_id: ReleaseId::from_bytes([2; 16]), error: "why".into() },
        EngineEvent::Warning { text: "two\nlines".into() },
    ]
}

#[test]
fn every_event_is_one_line_of_json_with_its_own_word_and_its_swarm() {
    let words: Vec<String> = every_event()
        .iter()
        .map(|event| {
            let json = event_json(event, NOW);
            assert!(!json.to_string().contains('\n'));
            assert_eq!(json["at"], "2026-11-21T12:00:00Z");
            let has_swarm =
                !matches!(event, EngineEvent::Connected { .. } | EngineEvent::Disconnected { .. } | EngineEvent::Warning { .. });
            assert_eq!(json["swarm_id"] == SWARM_TEXT, has_swarm, "{json}");
            json["event"].as_str().unwrap().to_owned()
        })
        .collect();
    let expected = "connected disconnected plan opened disk_full disk_room evicted quota_full quota_room progress replaced completed sealed key_came settled earned left failed warning";
    assert_eq!(words.join(" "), expected);
}

#[test]
fn the_json_of_an_event_says_all_that_the_engine_said() {
    let json = event_json(&completed(), NOW);
    assert_eq!(
        (json["path"].as_str(), json["elapsed_ms"].as_u64(), json["length"].as_u64()),
        (Some("out/film.bin"), Some(1250), Some(1000))
    );
    let progress = Progress { verified: Bytes(7), relayed: Bytes(8), up: BitsPerSecond(9), ..Progress::default() };
    let json = event_json(&EngineEvent::Progress { swarm_id: SWARM, progress, total: Bytes(10) }, NOW);
    assert_eq!((json["verified"].as_u64(), json["relayed"].as_u64(), json["up_bps"].as_u64()), (Some(7), Some(8), Some(9)));
    let json = event_json(&replaced(TerminalId::from_bytes([8; 16])), NOW);
    assert_eq!((json["chunk"].as_u64(), json["silent_ms"].as_u64()), (Some(9), Some(640)));
    assert_eq!((json["relay"].as_str(), json["source"].as_str()), (Some(RELAY_TEXT), Some("08080808-0808-0808-0808-080808080808")));
    assert_eq!(event_json(&replaced(TerminalId::ORIGIN), NOW)["source"], serde_json::Value::Null);
    assert_eq!(event_json(&settled(), NOW)["charged"], 220);
    assert_eq!(event_json(&plan(3), NOW)["opens_at_ms"], 1_795_262_410_000u64);
}

fn summary(path: Option<&str>) -> SwarmSummary {
    SwarmSummary {
        swarm_id: SWARM,
        release_id: ReleaseId::from_bytes([2; 16]),
        edition_id: EditionId([3; 32]),
        delivery_id: DeliveryId::from_bytes([5; 16]),
        rank: 2,
        serving: false,
        total: Some(Bytes(2048)),
        progress: Progress { verified: Bytes(1024), relayed: Bytes(512), ..Progress::default() },
        path: path.map(Into::into),
        blake3: None,
        charged: path.map(|_| Amount(220)),
        earned: Amount(12),
        left: None,
    }
}

#[test]
fn the_last_line_says_whether_everything_came() {
    let whole = summary_json(&Summary { swarms: vec![summary(Some("a"))], opened: 0 }, NOW);
    assert_eq!((&whole["event"], &whole["complete"], &whole["swarms"][0]["charged"]), (&"finished".into(), &true.into(), &220.into()));
    let part = summary_json(&Summary { swarms: vec![summary(Some("a")), summary(None)], opened: 0 }, NOW);
    assert_eq!((&part["complete"], &part["swarms"][1]["path"]), (&false.into(), &serde_json::Value::Null));
}

#[test]
fn events_become_lines_a_person_understands_and_a_changed_plan_none() {
    let screen = RunScreen::new(false, Currency::EUR, String::new());
    let line = |event: &EngineEvent, is_new| screen.line(event, is_new, datetime!(2026-11-21 12:00 UTC));
    assert_eq!(line(&plan(1), true).unwrap(), "rank 2 opens in 10s, 5 links planned");
    assert_eq!(line(&plan(2), false), None);
    assert_eq!(line(&completed(), false).unwrap(), "complete in 1.2s, in out/film.bin");
    assert_eq!(line(&settled(), false).unwrap(), "paid 2.20 EUR");
    assert_eq!(screen.summary_lines(&summary(Some("a"))), ["received, in a", "  512 B relayed; paid 2.20 EUR, earned 0.12 EUR"]);
    assert_eq!(
        screen.summary_lines(&summary(None)),
        ["not complete: 1.0 KiB of 2.0 KiB received", "  512 B relayed; not settled yet, earned 0.12 EUR"]
    );
    assert_eq!((links(0), links(1)), ("0 links".into(), "1 link".into()));
}

#[test]
fn x09_what_there_is_to_fetch_is_said_before_it_starts() {
    let screen = RunScreen::new(false, Currency::EUR, String::new());
    let line = |verified, to_fetch| {
        let event = EngineEvent::Opened { swarm_id: SWARM, verified: Bytes(verified), to_fetch: Bytes(to_fetch), total: Bytes(64 << 20) };
        screen.line(&event, false, NOW)
    };
    assert_eq!(line(0, 64 << 20), None, "all of it, as always");
    assert_eq!(line(60 << 20, 3_300_000).unwrap(), "3.1 MiB of 64.0 MiB to fetch, the rest is here already");
    assert_eq!(line(0, 1 << 20).unwrap(), "1.0 MiB of 64.0 MiB to fetch, the rest repeats");
    assert_eq!(line(64 << 20, 0).unwrap(), "nothing to fetch, all of 64.0 MiB is here already");
    let json = event_json(&EngineEvent::Opened { swarm_id: SWARM, verified: Bytes(1), to_fetch: Bytes(2), total: Bytes(4) }, NOW);
    assert_eq!((&json["verified"], &json["to_fetch"], &json["total"]), (&1.into(), &2.into(), &4.into()));
}

#[test]
fn a_full_disk_is_told_with_what_is_missing_and_that_it_goes_on_by_itself() {
    let screen = RunScreen::new(false, Currency::EUR, String::new());
    let line = screen.line(&disk_full(), false, NOW).unwrap();
    assert_eq!(line, "the disk of got is full: 3.0 MiB needed, 4.0 KiB free; goes on when there is room");
    assert_eq!(screen.line(&EngineEvent::DiskRoom { swarm_id: SWARM }, false, NOW).unwrap(), "there is room again, going on");
}

#[test]
fn x09_what_was_removed_and_what_is_in_the_way_is_told_with_why_and_what_to_do() {
    let screen = RunScreen::new(false, Currency::EUR, String::new());
    let line = |event: &EngineEvent| screen.line(event, false, NOW).unwrap();
    assert_eq!(line(&evicted()), "got/old.bin removed to make room for it, 3.0 MiB");
    assert_eq!(
        line(&quota_full(vec![Stays::Owed, Stays::InUse, Stays::Unknown])),
        "the store quota of 10.0 MiB is 1.0 MiB too small: up to 5.0 MiB needed, 6.0 MiB kept; to stay: got/a (2.0 MiB, its release has not \
         ended), got/a (2.0 MiB, in use), got/a (2.0 MiB, the server does not say whether its release has ended); goes on when there is room; \
         or stop, and give a larger --store-quota"
    );
    assert!(!line(&quota_full(vec![])).contains("to stay"));
    assert_eq!(line(&EngineEvent::QuotaRoom { swarm_id: SWARM }), "there is room within the store quota, going on");
    let json = event_json(&evicted(), NOW);
    assert_eq!((json["path"].as_str(), json["bytes"].as_u64()), (Some("got/old.bin"), Some(3 << 20)));
    let json = event_json(&quota_full(vec![Stays::Owed]), NOW);
    assert_eq!((json["quota"].as_u64(), json["needed"].as_u64(), json["missing"].as_u64()), (Some(10 << 20), Some(5 << 20), Some(1 << 20)));
    assert_eq!((&json["protected"][0]["why"], &json["protected"][0]["path"]), (&"owed".into(), &"got/a".into()));
}

#[test]
fn lines_of_a_swarm_wait_for_its_name() {
    let mut screen = RunScreen::new(false, Currency::EUR, String::new());
    screen.show(&plan(1)).unwrap();
    screen.show(&completed()).unwrap();
    assert_eq!(screen.swarms[&SWARM].waiting.len(), 2);
    screen.named(Named { swarm: SWARM, name: "Film (en)".into() }).unwrap();
    assert!(screen.swarms[&SWARM].waiting.is_empty());
    screen.show(&settled()).unwrap();
    assert!(screen.swarms[&SWARM].waiting.is_empty());
}

#[test]
fn rates_are_shown_with_one_decimal() {
    for (rate, text) in [(0, "0.0"), (99_999, "0.0"), (1_950_000, "1.9"), (20_000_000, "20.0")] {
        assert_eq!(mbit(BitsPerSecond(rate)), text);
    }
}

#[test]
fn x02_what_is_here_and_sealed_says_when_it_opens() {
    let screen = RunScreen::new(false, Currency::EUR, String::new());
    let release_id = ReleaseId::from_bytes([2; 16]);
    let key_at = TimestampMs(u64::try_from(NOW.unix_timestamp()).unwrap() * 1_000 + 7_200_000);
    let line = |key_at| screen.line(&EngineEvent::Sealed { swarm_id: SWARM, release_id, key_at }, false, NOW).unwrap();
    assert_eq!(line(Some(key_at)), "all of it is here, sealed: opens in 2h");
    assert_eq!(line(None), "all of it is here, sealed: opens when its key comes");
    assert_eq!(screen.line(&EngineEvent::KeyCame { swarm_id: SWARM }, false, NOW), None);
    let [received, _] = screen.summary_lines(&SwarmSummary {
        progress: Progress { verified: Bytes(9), ..Progress::default() },
        total: Some(Bytes(9)),
        ..summary(None)
    });
    assert_eq!(received, "received, and not opened yet");
}
