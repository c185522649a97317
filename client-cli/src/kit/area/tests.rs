use super::*;
use protocol::rest::{BalanceStatement, SignedStatement};
use protocol::{Amount, Currency, Money, TerminalKey};
use std::path::PathBuf;
use time::OffsetDateTime;

fn key() -> TerminalKey {
    TerminalKey::from_secret(&[3; 32])
}

fn kit_id() -> KitId {
    KitId::from_bytes([1; 16])
}

fn registered(files: Blake3, key: &TerminalKey) -> Registered {
    let money = Money { amount: Amount(0), currency: Currency::EUR };
    let at = OffsetDateTime::UNIX_EPOCH;
    let statement = BalanceStatement { kit_id: kit_id(), sequence: 1, previous: Blake3([0; 32]), available: money, held: money, at };
    Registered {
        id: kit_id(),
        terminal_id: TerminalId::from_bytes([2; 16]),
        files,
        files_signature: key.sign(&files_bytes(kit_id(), &files)),
        public_key: key.public(),
        created_at: at,
        forked_at: None,
        statement: SignedStatement { signature: key.sign(&statement.signed_bytes()), statement },
    }
}

fn state() -> KitState {
    KitState {
        kit_id: kit_id(),
        terminal_id: TerminalId::from_bytes([2; 16]),
        public_key: key().public(),
        sequence: 1,
        hash: Blake3([0; 32]),
        attempt: None,
        forked: false,
    }
}

fn identity() -> Identity {
    Identity { kit_id: kit_id(), terminal_id: TerminalId::from_bytes([2; 16]), server: "https://s.example".into(), version: "1".into() }
}

/// A whole area in a folder of its own.
fn area() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let (dir, program) = (parent.path().join("read-only"), parent.path().join("program"));
    fs::create_dir(&dir).unwrap();
    fs::write(&program, b"\x7fELF and so on").unwrap();
    let files = make(&dir, &identity(), &program).unwrap();
    sign(&dir, &registered(files, &key())).unwrap();
    (parent, dir)
}

#[test]
fn a05_the_area_holds_the_program_as_it_is_and_passes_as_it_was_made() {
    use std::os::unix::fs::PermissionsExt;
    let (_parent, dir) = area();
    assert_eq!(checked(&dir, &state()).unwrap(), identity());
    assert_eq!(fs::read(dir.join("spillway")).unwrap(), b"\x7fELF and so on");
    assert_eq!(fs::metadata(dir.join("spillway")).unwrap().permissions().mode() & 0o100, 0o100, "it can be run");
}

#[test]
fn a05_every_change_of_the_read_only_area_is_found() {
    let forged = |dir: &Path| {
        // Another program, listed and signed by somebody else.
        fs::write(dir.join("spillway"), b"evil").unwrap();
        let list = json(&listed(dir).unwrap()).unwrap();
        fs::write(dir.join("files.json"), &list).unwrap();
        let other = registered(Blake3::of(&list), &TerminalKey::from_secret(&[4; 32]));
        fs::remove_file(dir.join("signature.json")).unwrap();
        sign(dir, &other).unwrap();
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change<'_>; 10] = [
        ("spillway is not as it was", &|dir| fs::write(dir.join("spillway"), b"\x7fELF and so oN").unwrap()),
        ("spillway is not as it was", &|dir| fs::remove_file(dir.join("spillway")).unwrap()),
        ("kit.json is not as it was", &|dir| fs::write(dir.join("kit.json"), b"{}").unwrap()),
        ("player/index.html was added", &|dir| {
            fs::create_dir(dir.join("player")).unwrap();
            fs::write(dir.join("player/index.html"), b"x").unwrap();
        }),
        ("link was added", &|dir| std::os::unix::fs::symlink("spillway", dir.join("link")).unwrap()),
        ("spillway is not as it was", &|dir| {
            fs::rename(dir.join("spillway"), dir.join("../moved")).unwrap();
            std::os::unix::fs::symlink("../moved", dir.join("spillway")).unwrap();
        }),
        ("no list", &|dir| fs::remove_file(dir.join("files.json")).unwrap()),
        ("not signed", &|dir| fs::write(dir.join("files.json"), b"[]").unwrap()),
        ("no signature", &|dir| fs::write(dir.join("signature.json"), b"").unwrap()),
        ("not signed", &forged),
    ];
    for (told, change) in changes {
        let (_parent, dir) = area();
        change(&dir);
        let failure = checked(&dir, &state()).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert!(failure.to_string().contains(told) && failure.to_string().contains("was changed"), "{told}: {failure}");
    }
}

#[test]
fn a05_the_area_of_another_kit_is_refused_though_the_service_has_signed_it() {
    let (_parent, dir) = area();
    let other = KitState { kit_id: KitId::from_bytes([7; 16]), ..state() };
    assert!(checked(&dir, &other).unwrap_err().to_string().contains("not signed"));
}
