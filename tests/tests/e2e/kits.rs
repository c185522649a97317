//! Kits as people carry them: a directory and a passphrase.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use protocol::rest::Wallet;
use serde_json::Value;
use tests::program::{Cli, Kit};
use tests::{Plan, Stack, eventually};

use crate::scene::Scene;

const PASSPHRASE: &str = "a phrase for the stick";

fn failed(output: &Output, code: i32, part: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && told.contains(part), "{:?}, not {code}, {part:?}: {told}", output.status);
}

/// As somebody does who puts back or hands on what was on the stick.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn available(shown: &Value) -> u64 {
    shown["statement"]["available"]["amount"].as_u64().expect("an amount")
}

async fn owner(amount: u64) -> (Stack, Cli, Vec<String>) {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let cli = stack.cli(&operator, "owner", amount).await;
    let vouchers = operator.vouchers(2, 500).await;
    (stack, cli, vouchers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_a20_a_kit_receives_and_relays_and_shows_offline_what_that_came_to() {
    let plan = Plan { ranks: vec![(100, 0, 2), (60, 3, 2)], budget_percent: 120, limit_s: 45, ..Plan::default() };
    let mut scene = Scene::set_on(&[], 2, 2 << 20, &plan).await;
    // The first terminal's owner takes the kit along and leaves the machine off.
    let kit = scene.terminals[0].kit(PASSPHRASE).await;
    scene.terminals[0].person.applied(&scene.release, kit.terminal_id, 1, 3_000).await;
    let before = available(&kit.json(&["kit", "show"]).await);
    let release = scene.release.id.to_string();
    let mut carried = kit.run(&["--release", &release, "--up-mbit", "40", "--down-mbit", "200"]);
    let mut other = scene.terminals[1].run(&["--release", &release, "--up-mbit", "40", "--down-mbit", "200"]);
    let hash = scene.published.edition.blake3.to_string();
    assert_eq!((carried.completed().await, other.completed().await), (hash.clone(), hash));
    carried.done().await;
    other.done().await;
    scene.settled(Duration::from_secs(150)).await;
    // What was settled after the run was over comes with the next connection.
    kit.json(&["wallet"]).await;
    let wallet: Wallet = scene.terminals[0].person.get("/v1/wallet").await.expect();
    let deliveries = scene.publisher.deliveries(scene.release.id).await;
    let own = deliveries.iter().find(|delivery| delivery.terminal_id == kit.terminal_id).expect("the kit's");
    scene.books_balance().await;

    scene.stack.kill_server().await;
    let shown = kit.json(&["kit", "show"]).await;
    assert_eq!(available(&shown), wallet.available.amount.0);
    assert!(available(&shown) != before && shown["statement"]["sequence"].as_u64() > Some(3), "{shown}");
    let [line] = shown["history"].as_array().unwrap().as_slice() else { panic!("one line: {shown}") };
    assert_eq!(line["charged"].as_u64(), Some(own.charged.amount.0), "{line}");
    assert_eq!(line["earned"].as_u64(), Some(own.earned.amount.0), "{line}");
    assert!(own.earned.amount.0 > 0 && line["relayed"].as_u64() > Some(0), "it has relayed: {line}");
    assert_eq!(line["received"].as_u64(), Some(2 << 20));
    assert!(line["name"].as_str().unwrap().contains("edition"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_the_balance_follows_while_the_kit_runs() {
    let mut scene = Scene::set_on(&[], 1, 1 << 20, &Plan::default()).await;
    let kit = scene.terminals[0].kit(PASSPHRASE).await;
    scene.terminals[0].person.applied(&scene.release, kit.terminal_id, 1, 3_000).await;
    // Without an end of its own: nothing but the delivery moves the balance.
    let mut command = kit.command(&["run", "--json"]);
    command.arg("--dir").arg(kit.dir.join("received")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    scene.run_all();
    scene.settled(Duration::from_secs(60)).await;
    let wallet: Wallet = scene.terminals[0].person.get("/v1/wallet").await.expect();
    eventually("the kit's balance is the wallet's", Duration::from_secs(30), || async {
        let shown = kit.json(&["kit", "show"]).await;
        (available(&shown) == wallet.available.amount.0).then_some(())
    })
    .await;
    child.kill().await.unwrap();
    kit.json(&["wallet"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_a_balance_that_was_put_back_or_edited_is_not_shown_and_the_next_connection_brings_the_true_one() {
    let (_stack, cli, vouchers) = owner(1_000).await;
    let kit = cli.kit(PASSPHRASE).await;
    let statement = kit.dir.join("rewritable/statement.json");
    let old = std::fs::read_to_string(&statement).unwrap();
    assert_eq!(available(&kit.json(&["kit", "show"]).await), 1_000);
    kit.json(&["redeem", &vouchers[0]]).await;
    assert_eq!(available(&kit.json(&["kit", "show"]).await), 1_500, "the balance of after the command");

    let present = std::fs::read_to_string(&statement).unwrap();
    for (written, told) in [(old.clone(), "put back"), (present.replace("1500", "9500"), "edited"), ("{}".to_owned(), "cannot be read")] {
        std::fs::write(&statement, written).unwrap();
        failed(&kit.call(&["kit", "show"]).await, 1, told);
        let output = kit.call(&["wallet"]).await;
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(told), "{output:?}");
        assert_eq!(available(&kit.json(&["kit", "show"]).await), 1_500);
    }
    std::fs::remove_file(&statement).unwrap();
    failed(&kit.call(&["kit", "show"]).await, 1, "no balance statement");
    // Both put back: nothing in the kit can know; the service does.
    let whole = kit.dir.join("rewritable");
    kit.json(&["wallet"]).await;
    let saved = cli.config.join("saved");
    copied(&whole, &saved);
    kit.json(&["redeem", &vouchers[1]]).await;
    copied(&saved, &whole);
    assert_eq!(available(&kit.json(&["kit", "show"]).await), 1_500);
    failed(&kit.call(&["wallet"]).await, 4, "copied or put back");
    let wallet: Wallet = cli.person.get("/v1/wallet").await.expect();
    assert_eq!(wallet.available.amount.0, 2_000, "the money is the account's and is not lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_of_two_copies_of_a_kit_the_second_is_found_out_and_both_are_refused() {
    let (_stack, cli, _) = owner(1_000).await;
    let kit = cli.kit(PASSPHRASE).await;
    let clone = Kit { dir: cli.config.join("clone"), ..kit.clone() };
    copied(&kit.dir, &clone.dir);
    kit.json(&["list"]).await;
    failed(&clone.call(&["list"]).await, 4, "copied or put back");
    failed(&kit.call(&["wallet"]).await, 4, "copied or put back");
    let mut refused = kit.run(&[]);
    assert_eq!(refused.child.wait().await.unwrap().code(), Some(4), "{}", refused.log());
    for copy in [&kit, &clone] {
        assert_eq!(copy.json(&["kit", "show"]).await["forked"], true);
        let output = copy.call(&["kit", "show"]).await;
        assert!(String::from_utf8_lossy(&output.stdout).contains("is refused"), "{output:?}");
    }
    let listed: Value = serde_json::from_slice(&cli.call(&["kit", "list", "--json"]).await.stdout).unwrap();
    assert!(listed[0]["forked_at"].is_string(), "{listed}");
    // The account and its other terminals are not touched by it, nor is a new kit.
    assert!(cli.call(&["wallet"]).await.status.success());
    std::fs::remove_dir_all(&kit.dir).unwrap();
    let other = cli.kit("another phrase").await;
    other.json(&["wallet"]).await;
    assert_eq!(other.json(&["kit", "list"]).await.as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_an_attempt_that_did_not_reach_the_service_is_gone_on_with() {
    let (mut stack, cli, vouchers) = owner(1_000).await;
    let kit = cli.kit(PASSPHRASE).await;
    stack.kill_server().await;
    failed(&kit.call(&["wallet"]).await, 5, "");
    assert_eq!(available(&kit.json(&["kit", "show"]).await), 1_000, "offline it shows what it had");
    stack.start_server().await;
    cli.person.redeem(&vouchers[0]).await.expect_ok();
    kit.json(&["list"]).await;
    assert_eq!(available(&kit.json(&["kit", "show"]).await), 1_500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_a_kit_with_a_changed_read_only_area_is_refused_and_one_mounted_read_only_is_not() {
    let (_stack, cli, _) = owner(1_000).await;
    let kit = cli.kit(PASSPHRASE).await;
    failed(&Kit { passphrase: "a guess".into(), ..kit.clone() }.call(&["kit", "show"]).await, 1, "not the kit's passphrase");
    let area = kit.dir.join("read-only");
    // By the program from elsewhere: what runs out of the area is the very thing that may be another one.
    let trusted = |arguments: &[&str]| {
        let (dir, arguments) = (kit.dir.to_str().unwrap().to_owned(), arguments.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
        let mut command = tokio::process::Command::new(tests::stack::built("SPILLWAY_BIN", "spillway"));
        command.args(["--kit", &dir]).args(arguments).env("SPILLWAY_KIT_PASSPHRASE", PASSPHRASE).stdin(Stdio::null());
        async move { command.output().await.unwrap() }
    };
    let identity = std::fs::read(area.join("kit.json")).unwrap();
    for (file, bytes) in [("kit.json", b"{}".as_slice()), ("autorun.inf", b"x"), ("files.json", b"[]")] {
        let before = std::fs::read(area.join(file)).ok();
        std::fs::write(area.join(file), bytes).unwrap();
        for command in [&["kit", "show"][..], &["wallet"], &["run"]] {
            failed(&trusted(command).await, 1, "was changed");
        }
        match before {
            Some(before) => std::fs::write(area.join(file), before).unwrap(),
            None => std::fs::remove_file(area.join(file)).unwrap(),
        }
    }
    assert_eq!(std::fs::read(area.join("kit.json")).unwrap(), identity);
    assert!(trusted(&["wallet"]).await.status.success());

    // A mount of this process's own, which goes with it.
    let mounted = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && ! touch \"$1/x\" 2>/dev/null && shift && exec \"$@\"";
    let program = area.join("spillway");
    let mut command = tokio::process::Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", mounted, "sh"]).arg(&area).arg(&program).arg("--kit").arg(&kit.dir);
    command.args(["wallet", "--json"]).env("SPILLWAY_KIT_PASSPHRASE", PASSPHRASE).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    if String::from_utf8_lossy(&output.stderr).starts_with("unshare:") {
        // Where no mount may be made, the files' modes say the same to everybody but root.
        for path in [area.clone(), program.clone(), area.join("kit.json"), area.join("files.json"), area.join("signature.json")] {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o555;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        kit.json(&["wallet"]).await;
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_a_kit_that_cannot_be_made_leaves_nothing_and_a_passphrase_can_be_changed() {
    let (_stack, cli, _) = owner(0).await;
    let stick = cli.config.join("stick");
    let create = ["kit", "create", stick.to_str().unwrap(), "--password-stdin"];
    for (input, code, told) in [
        ("wrong password\nlong enough\n", 3, "password"),
        ("x\n", 2, "second line"),
        (&format!("{}\nshort\n", tests::stack::PASSWORD), 2, "8 characters"),
    ] {
        failed(&tests::program::spillway(&cli.config, &create, input).await, code, told);
        assert_eq!(std::fs::read_dir(&stick).unwrap().count(), 0, "{told}");
    }
    failed(&cli.call(&["kit", "show"]).await, 2, "--kit");
    let kit = cli.kit(PASSPHRASE).await;
    failed(&tests::program::spillway(&cli.config, &create, "a\nb\n").await, 2, "is there already");
    failed(&kit.call(&["kit", "create", "elsewhere"]).await, 2, "leave out --kit");
    failed(&kit.call(&["register", "--server", "http://127.0.0.1:9", "--email", "a@b.example"]).await, 2, "holds the terminal");
    let mut change = kit.command(&["kit", "passphrase", "--password-stdin"]);
    let mut child = change.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), b"the next phrase\n").await.unwrap();
    assert!(child.wait().await.unwrap().success());
    failed(&kit.call(&["kit", "show"]).await, 1, "not the kit's passphrase");
    Kit { passphrase: "the next phrase".into(), ..kit }.json(&["wallet"]).await;
}
