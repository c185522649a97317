use std::fs;

use rustix::process::test_kill_process;

use super::*;

const GRACE: Duration = Duration::from_secs(20);

fn shell(script: &str, ending: Ending) -> Launch {
    let mut launch = Launch::new("script", "sh", None, ending, Output::Terminal);
    launch.command.args(["-c", script]);
    launch
}

fn is_running(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // A process that nobody has reaped yet answers too; its state letter in /proc tells it from a live one.
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let letter = state.rsplit(") ").next().and_then(|rest| rest.chars().next());
    test_kill_process(pid).is_ok() && letter != Some('Z')
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

fn state_of(pid: u32) -> Option<char> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit(") ").next()?.chars().next()
}

fn number_in(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.strip_suffix('\n')?.parse().ok()
}

#[test]
fn dropping_a_child_ends_its_whole_process_group() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("grandchild");
    let mut launch = shell("sleep 600 & echo $! > \"$NOTE\"; wait", Ending::terminate(GRACE));
    launch.command.env("NOTE", &note);
    let child = launch.start(&Interrupt::default()).unwrap();
    wait_until("the note", || number_in(&note).is_some());
    let (leader, grandchild) = (child.id(), number_in(&note).unwrap());
    assert!(is_running(leader) && is_running(grandchild));
    drop(child);
    assert!(!is_running(leader));
    wait_until("the end of the grandchild", || !is_running(grandchild));
}

#[test]
fn a_grandchild_does_not_outlive_a_child_that_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("grandchild");
    let mut launch = shell("sleep 600 & echo $! > \"$NOTE\"", Ending::terminate(GRACE));
    launch.command.env("NOTE", &note);
    let mut child = launch.start(&Interrupt::default()).unwrap();
    assert!(child.wait().unwrap().success());
    let grandchild = number_in(&note).unwrap();
    wait_until("the end of the grandchild", || !is_running(grandchild));
}

#[test]
fn a_child_that_ignores_its_stop_signal_is_killed_after_its_grace() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("ready");
    let ending = Ending::terminate(Duration::from_millis(100));
    let mut launch = shell("trap '' TERM; echo 1 > \"$NOTE\"; while :; do sleep 0.01; done", ending);
    launch.command.env("NOTE", &note);
    let mut child = launch.start(&Interrupt::default()).unwrap();
    wait_until("the trap", || number_in(&note).is_some());
    let begun = Instant::now();
    child.stop();
    assert!(!is_running(child.id()));
    assert!(begun.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_child_that_ends_before_it_is_ready_fails_with_the_end_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut launch = Launch::new("script", "sh", None, Ending::terminate(GRACE), Output::Log(log.clone()));
    launch.command.args(["-c", "echo the disk is full >&2; exit 3"]);
    let mut child = launch.start(&Interrupt::default()).unwrap();
    let Err(Failure::Told(message)) = child.ready_within(GRACE, || None::<()>) else { panic!("it must fail") };
    assert!(
        message.contains("the disk is full") && message.contains("exit status: 3") && message.contains(&*log.to_string_lossy()),
        "{message}"
    );
}

#[test]
fn a_child_that_is_never_ready_fails_at_the_deadline() {
    let mut child = shell("sleep 600", Ending::terminate(GRACE)).start(&Interrupt::default()).unwrap();
    let Err(Failure::Told(message)) = child.ready_within(Duration::from_millis(50), || None::<()>) else { panic!("it must fail") };
    assert!(message.contains("was not ready"), "{message}");
}

#[test]
fn a_child_reads_its_input_and_its_failure_is_reported() {
    let mut child =
        shell("read line; test \"$line\" = secret", Ending::terminate(GRACE)).input("secret\n").start(&Interrupt::default()).unwrap();
    child.succeed_within(GRACE).unwrap();
    let mut child =
        shell("read line; test \"$line\" = secret", Ending::terminate(GRACE)).input("other\n").start(&Interrupt::default()).unwrap();
    assert!(child.succeed_within(GRACE).is_err());
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let launch = Launch::new("ghost", "/nonexistent/ghost", None, Ending { orphaned: None, ..Ending::terminate(GRACE) }, Output::Terminal);
    let Err(Failure::Told(message)) = launch.start(&Interrupt::default()) else { panic!("it must fail") };
    assert!(message.contains("ghost") && message.contains("/nonexistent/ghost"), "{message}");
}

/// Runs one of the ignored tests below in a process of its own, which it may kill, and returns the number that it writes to its note.
fn in_a_process_of_its_own(test: &str, note: &Path) -> (process::Child, u32) {
    let mut runner = Command::new(std::env::current_exe().unwrap());
    runner.args(["--exact", &format!("children::tests::{test}"), "--ignored"]).env("NOTE", note).stdout(Stdio::null());
    let runner = runner.spawn().unwrap();
    wait_until("the note", || number_in(note).is_some());
    (runner, number_in(note).unwrap())
}

#[test]
#[ignore = "run by the next test, in a process of its own"]
fn a_runner_with_one_child() {
    let note = std::env::var_os("NOTE").unwrap();
    // The child itself says that it is there: by then the kernel knows what to send it.
    let mut launch = shell("echo $$ > \"$NOTE\"; exec sleep 600", Ending::terminate(GRACE));
    launch.command.env("NOTE", note);
    let _child = launch.start(&Interrupt::default()).unwrap();
    thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_child_dies_with_its_runner_even_if_that_is_killed_without_warning() {
    let folder = tempfile::tempdir().unwrap();
    let (mut runner, child) = in_a_process_of_its_own("a_runner_with_one_child", &folder.path().join("child"));
    assert!(is_running(child));
    runner.kill().unwrap();
    runner.wait().unwrap();
    wait_until("the end of the child", || !is_running(child));
}

#[test]
#[ignore = "run by the next test, in a process of its own"]
fn a_runner_whose_child_leaves_a_daemon() {
    orphans::adopt();
    let mut launch = shell("setsid sh -c 'echo $$ > \"$NOTE\"; exec sleep 600' & sleep 0.2", Ending::terminate(GRACE));
    launch.command.env("NOTE", std::env::var_os("NOTE").unwrap());
    launch.start(&Interrupt::default()).unwrap().succeed_within(GRACE).unwrap();
    let note = PathBuf::from(std::env::var_os("NOTE").unwrap());
    wait_until("the daemon", || number_in(&note).is_some());
    assert!(is_running(number_in(&note).unwrap()), "it has left its group, so the end of the child did not reach it");
    orphans::end();
}

#[test]
fn a_daemon_that_a_child_leaves_behind_does_not_outlive_the_runner() {
    let folder = tempfile::tempdir().unwrap();
    let (mut runner, daemon) = in_a_process_of_its_own("a_runner_whose_child_leaves_a_daemon", &folder.path().join("daemon"));
    assert!(runner.wait().unwrap().success());
    assert!(!is_running(daemon));
}

#[test]
fn a_suspended_child_is_not_over_and_its_end_waits_for_no_grace() {
    // `exec`: a shell that waits for a stopped child to begin shows another state.
    let mut child = shell("exec sleep 600", Ending::terminate(GRACE)).start(&Interrupt::default()).unwrap();
    child.suspend();
    wait_until("the pause", || state_of(child.id()) == Some('T'));
    assert!(!child.has_ended());
    let begun = Instant::now();
    child.stop();
    assert!(begun.elapsed() < GRACE && child.has_ended());
}

#[test]
fn a_killed_child_stays_known_to_the_kernel_until_it_is_stopped() {
    let mut child = shell("sleep 600", Ending::terminate(GRACE)).start(&Interrupt::default()).unwrap();
    child.kill();
    wait_until("the end", || child.has_ended());
    assert_eq!(state_of(child.id()), Some('Z'));
    let id = child.id();
    child.stop();
    assert_eq!(state_of(id), None);
}
