//! The program as it is started from a shell: exit codes, and what goes to which stream.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn spillway(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .env_clear()
        .env("SPILLWAY_CONFIG", config)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("the program cannot be started: {error}"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("not a text: {error}"))
}

#[test]
fn help_and_version_are_no_failure_and_go_to_standard_output() {
    let config = tempfile::tempdir().unwrap();
    for line in [&["--help"][..], &["--version"], &["release", "create", "--help"], &["run", "--help"]] {
        let output = spillway(config.path(), line);
        assert_eq!(output.status.code(), Some(0), "{line:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{line:?}");
    }
}

#[test]
fn every_kind_of_failure_has_its_exit_code_and_one_line_on_standard_error() {
    let config = tempfile::tempdir().unwrap();
    let empty = config.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    let empty = empty.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 9] = [
        (&["publish", empty, "--title", "x"], 1, "at least one byte"),
        (&["register", "--server", "http://127.0.0.1:9", "--email", "a@b.example"], 2, "--password-stdin"),
        (&["login", "--email", "a@b.example"], 2, "--server"),
        (&["wallet"], 3, "spillway login"),
        (&["run"], 3, "spillway login"),
        (&["status"], 3, "spillway login"),
        (&["contents"], 3, "spillway login"),
        (&["logout"], 3, "spillway login"),
        (&["password", "--password-stdin"], 3, "spillway login"),
    ];
    for (line, code, part) in cases {
        let output = spillway(config.path(), line);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line:?}: {told}");
        assert!(output.stdout.is_empty(), "{line:?}");
        assert!(told.starts_with("spillway: ") && told.contains(part) && told.lines().count() == 1, "{line:?}: {told}");
    }
}

#[test]
fn a_line_that_is_not_understood_is_a_usage_error() {
    let config = tempfile::tempdir().unwrap();
    for line in [&[][..], &["fly"], &["wallet", "--entries", "x"], &["apply"]] {
        let output = spillway(config.path(), line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line:?}");
    }
}

#[test]
fn a_failure_is_one_json_object_for_a_program() {
    let config = tempfile::tempdir().unwrap();
    let output = spillway(config.path(), &["--json", "wallet"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["exit_code"], 3);
}

#[test]
fn a_server_that_is_away_is_exit_code_five() {
    use std::io::Write;
    // Bound, so that no other process gets the port, and not listening.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = bound.local_addr().unwrap();
    let config = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(["register", "--server", &format!("http://{address}"), "--email", "a@b.example", "--password-stdin"])
        .arg("--config")
        .arg(config.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"long enough\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("could not be reached"));
    assert_eq!(std::fs::read_dir(config.path()).unwrap().count(), 0, "nothing is stored of an account that does not exist");
}

/// A folder with a login and a terminal on a server that does not exist.
fn logged_in(config: &Path) {
    let secret = |name: &str, text: &str| {
        use std::os::unix::fs::OpenOptionsExt;
        let path = config.join(name);
        let mut file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(path).expect("a new file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("it is written");
    };
    let (user, server) = ("01010101-0101-0101-0101-010101010101", "http://127.0.0.1:9");
    secret(
        "account.json",
        &format!(
            r#"{{"server":"{server}","email":"a@b.example","user_id":"{user}","access_token":"a","access_expires_at":"2999-01-01T00:00:00Z","refresh_token":"r"}}"#
        ),
    );
    secret(
        "terminal.json",
        &format!(r#"{{"server":"{server}","user_id":"{user}","name":"tv","id":"{user}","secret":"{}"}}"#, "09".repeat(32)),
    );
}

#[test]
fn a_second_run_in_one_folder_is_refused_and_names_the_first() {
    let config = tempfile::tempdir().unwrap();
    logged_in(config.path());
    // What a running process holds.
    let path = config.path().join("run.lock");
    std::fs::write(&path, "4711\n").unwrap();
    let lock = std::fs::File::open(&path).unwrap();
    lock.lock().unwrap();
    let received = config.path().join("received");
    let line = ["run", "--dir", received.to_str().unwrap()];
    let output = spillway(config.path(), &line);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("another `spillway run` (process 4711)") && told.contains(config.path().to_str().unwrap()), "{told}");
    assert!(!received.exists(), "nothing is touched");
    // The lock ends with its holder: the next one comes as far as the server, which is not there.
    drop(lock);
    assert_eq!(spillway(config.path(), &line).status.code(), Some(5));
}
