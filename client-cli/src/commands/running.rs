//! `run`: the terminal at work. Drives [`terminal::engine::Engine`], shows what happens, and stops in good order.

mod carried;
mod names;
mod remaining;
mod standing;
mod telling;

use std::path::Path;

use protocol::Bytes;
use protocol::rest::Terminal;
use terminal::engine::{Engine, EngineConfig, EngineError, EngineEvent, Summary};
use terminal::link::LinkConfig;
use terminal::socket::SocketError;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Setting, currency};
use crate::arguments::RunArguments;
use crate::failure::{Failure, Outcome, while_doing};
use crate::folder::TerminalFile;
use crate::screen::{RunScreen, clean};
use crate::session::{Login, token_failure, with_causes};
use telling::Telling;

/// Events that wait to be shown. The engine must never wait for a slow screen, so what finds this full is dropped: progress is told again a second
/// later, and the summary at the end repeats all that counts.
const EVENTS_MAX: usize = 1024;

/// Why a run was stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Ctrl-C. A second one ends the program at once.
    Interrupt,
    /// The ordinary end of a service.
    Terminate,
    /// Nothing is left to wait for.
    NothingLeft,
}

pub(super) async fn run(arguments: RunArguments, setting: &Setting) -> Outcome<()> {
    // Before anything else, so that no interrupt is lost.
    let signals = Signals::listen()?;
    let login = Login::from_folder(&setting.folder)?;
    let _claim = setting.folder.claim_run()?;
    make_folder(&arguments.dir)?;
    for &release in &arguments.releases {
        // A release that does not exist would be waited for without an end.
        login.api.release(release).await?;
    }
    attend(arguments, Work::Releases, signals, login, setting).await
}

/// Makes the folder that editions go to.
pub(super) fn make_folder(dir: &Path) -> Outcome<()> {
    std::fs::create_dir_all(dir).map_err(while_doing(format_args!("cannot create {}", dir.display())))
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// What was applied for; and, if no release is named, serving what lies here.
    Releases,
    /// The one release named carries a download: the run ends with it.
    Download,
}

/// Runs the terminal until there is nothing left to do, or somebody ends it. The caller has the right to run it.
pub(super) async fn attend(arguments: RunArguments, work: Work, mut signals: Signals, login: Login, setting: &Setting) -> Outcome<()> {
    let (file, id) = login.terminal(&setting.folder)?;
    let registered = login.api.terminal(id).await?;
    let connection = format!("{} as {}", login.account.server, clean(&registered.name));
    let screen = RunScreen::new(setting.json, currency(&login.api).await?, connection);
    let mut telling = Telling::start(screen, &login.api, setting.kit.as_ref())?;

    let (events_sender, mut events) = mpsc::channel(EVENTS_MAX);
    let (stop_sender, stopped) = oneshot::channel::<()>();
    let dir = std::fs::canonicalize(&arguments.dir).map_err(while_doing(format_args!("cannot open {}", arguments.dir.display())))?;
    let other_dirs = setting.folder.note_received(&dir, &setting.folder.lock().await?)?;
    let config = EngineConfig { other_dirs, ..engine_config(&arguments, work, &login, &registered, &file) };
    let (swarms_sender, swarms) = watch::channel(remaining::Swarms::default());
    let engine = Engine::new(config, move |event| {
        remaining::note(&swarms_sender, &event);
        drop(events_sender.try_send(event));
    });
    let mut running = tokio::spawn(engine.run(async {
        // A sender that is gone means that this task is gone: a reason to stop as well.
        let _ = stopped.await;
    }));
    let nothing_left = remaining::nothing_left(&login.api, id, &arguments.releases, swarms);
    tokio::pin!(nothing_left);
    let (news_sender, mut news) = mpsc::channel(standing::CHANGES_MAX);
    let watching = standing::watch(&login.api, id, &arguments.releases, news_sender);
    tokio::pin!(watching);
    let (mut is_connected, mut is_first) = (false, true);

    let (mut stop_sender, mut stop, mut refused) = (Some(stop_sender), None, None);
    let outcome = loop {
        let asked = tokio::select! {
            joined = &mut running => break joined,
            Some(event) = events.recv() => {
                is_connected |= matches!(event, EngineEvent::Connected { .. });
                telling.event(event).await?;
                continue;
            }
            Some(named) = telling.names.next() => {
                telling.named(named)?;
                continue;
            }
            failure = telling.carried.failure() => {
                refused = telling.behind(failure)?;
                if refused.is_none() { continue } else { Stop::Terminate }
            }
            Some(changed) = news.recv(), if stop.is_none() => {
                telling.screen.standings(&changed, std::mem::take(&mut is_first))?;
                continue;
            }
            never = &mut watching, if work == Work::Releases && is_connected && stop.is_none() => match never {},
            asked = signals.next() => asked,
            () = &mut nothing_left, if arguments.exit_when_done && stop.is_none() => Stop::NothingLeft,
        };
        if stop == Some(Stop::Interrupt) && asked == Stop::Interrupt {
            running.abort();
            return Err(Failure::Interrupted);
        }
        stop = Some(asked);
        if let Some(sender) = stop_sender.take() {
            telling.screen.stopping(asked != Stop::NothingLeft)?;
            // The engine may have ended by itself in the same moment.
            let _ = sender.send(());
        }
    };
    while let Ok(event) = events.try_recv() {
        telling.event(event).await?;
    }
    let summary = outcome.map_err(|error| Failure::Failed(format!("the engine has failed: {error}")))?.map_err(engine_failure)?;
    telling.finish(&summary).await?;
    refused.map_or_else(|| conclusion(&summary, stop), Err)
}

/// Rates for this run alone stand in the arguments. Without them those count that were stated for this machine: the server's figures are the last
/// run's.
fn engine_config(arguments: &RunArguments, work: Work, login: &Login, registered: &Terminal, file: &TerminalFile) -> EngineConfig {
    let usual = file.capabilities.unwrap_or(registered.capabilities);
    EngineConfig {
        up: arguments.up_mbit.unwrap_or(usual.up),
        down: arguments.down_mbit.unwrap_or(usual.down),
        only_releases: arguments.releases.clone(),
        serve: work == Work::Releases && arguments.releases.is_empty(),
        exit_when_done: work == Work::Download,
        quota: quota(arguments.store_quota, file),
        link: LinkConfig { turn_only: arguments.turn_only, ..LinkConfig::default() },
        ..EngineConfig::new(login.api.clone(), registered.id, file.key(), arguments.dir.clone())
    }
}

/// The quota of this run, or that of this terminal; 0 says that there is none.
pub(super) fn quota(given: Option<Bytes>, file: &TerminalFile) -> Option<Bytes> {
    given.or(file.store_quota).filter(|quota| quota.0 > 0)
}

/// What the exit code says of a run that ended without an error.
fn conclusion(summary: &Summary, stop: Option<Stop>) -> Outcome<()> {
    if stop == Some(Stop::Interrupt) {
        return Err(Failure::Interrupted);
    }
    let incomplete = summary.received().filter(|swarm| swarm.path.is_none()).count();
    if incomplete == 0 || stop == Some(Stop::Terminate) {
        return Ok(());
    }
    Err(Failure::Failed(format!("{incomplete} of {} deliveries were not completed", summary.received().count())))
}

pub(super) fn engine_failure(error: EngineError) -> Failure {
    let line = with_causes(&error);
    match error {
        EngineError::NotLoggedIn => Failure::NotLoggedIn("not logged in: use `spillway login`".into()),
        EngineError::Manifest(error) => Failure::from(error),
        EngineError::Rejected(SocketError::Token(error)) => token_failure(error),
        EngineError::Rejected(SocketError::Refused { code, detail }) => match code.status() {
            401 => Failure::NotLoggedIn(format!("{line}: log in again with `spillway login`")),
            _ => Failure::from_refusal(code, detail),
        },
        EngineError::Rejected(SocketError::Address(_)) => Failure::Usage(line),
        EngineError::Rejected(SocketError::Replaced)
        | EngineError::Links(_)
        | EngineError::Store(_)
        | EngineError::Plan(_)
        | EngineError::NoTurn
        | EngineError::Quota { .. }
        | EngineError::Broken => Failure::Failed(line),
    }
}

/// SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> Outcome<Self> {
        let listen = |kind| signal(kind).map_err(while_doing("cannot listen for signals"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ws::Progress;
    use protocol::{Amount, DeliveryId, EditionId, ErrorCode, ReleaseId, SwarmId};
    use terminal::engine::SwarmSummary;

    fn swarm(path: Option<&str>) -> SwarmSummary {
        SwarmSummary {
            swarm_id: SwarmId::from_bytes([1; 16]),
            release_id: ReleaseId::from_bytes([2; 16]),
            edition_id: EditionId([3; 32]),
            delivery_id: DeliveryId::from_bytes([4; 16]),
            rank: 1,
            serving: false,
            total: None,
            progress: Progress::default(),
            path: path.map(Into::into),
            blake3: None,
            charged: None,
            earned: Amount(0),
            left: None,
        }
    }

    #[test]
    fn the_exit_code_says_whether_everything_came() {
        let cases = [
            (vec![swarm(Some("a"))], None, None),
            (vec![], None, None),
            (vec![], Some(Stop::NothingLeft), None),
            (vec![swarm(Some("a")), swarm(None)], None, Some(1)),
            (vec![swarm(None)], Some(Stop::NothingLeft), Some(1)),
            (vec![swarm(None)], Some(Stop::Terminate), None),
            (vec![swarm(Some("a"))], Some(Stop::Interrupt), Some(130)),
            (vec![swarm(Some("a")), SwarmSummary { serving: true, ..swarm(None) }], None, None),
        ];
        for (swarms, stop, code) in cases {
            let summary = Summary { swarms, opened: 0 };
            assert_eq!(conclusion(&summary, stop).err().map(|failure| failure.exit_code()), code, "{summary:?} {stop:?}");
        }
    }

    #[test]
    fn x09_the_quota_of_a_run_counts_before_that_of_the_terminal_and_zero_is_none() {
        let key = protocol::TerminalKey::from_secret(&[9; 32]);
        let mut file = TerminalFile::new("s".into(), protocol::UserId::from_bytes([1; 16]), "tv".into(), &key);
        assert_eq!(quota(None, &file), None);
        assert_eq!(quota(Some(Bytes(5)), &file), Some(Bytes(5)));
        file.store_quota = Some(Bytes(7));
        assert_eq!(quota(None, &file), Some(Bytes(7)));
        assert_eq!(quota(Some(Bytes(5)), &file), Some(Bytes(5)));
        assert_eq!(quota(Some(Bytes(0)), &file), None);
    }

    #[test]
    fn an_engine_that_ends_by_itself_says_whose_fault_it_is() {
        let refused = |code| EngineError::Rejected(SocketError::Refused { code, detail: "why".into() });
        let cases = [
            (EngineError::NotLoggedIn, 3),
            (refused(ErrorCode::Unauthenticated), 3),
            (refused(ErrorCode::ProtocolVersion), 4),
            (refused(ErrorCode::Unavailable), 5),
            (EngineError::Rejected(SocketError::Token(terminal::api::TokenError::NotLoggedIn)), 3),
            (EngineError::Store(terminal::store::StoreError::WholeHash), 1),
            (EngineError::Broken, 1),
            (EngineError::Quota { needed: Bytes(2), quota: Bytes(1) }, 1),
        ];
        for (error, code) in cases {
            let told = format!("{error:?}");
            assert_eq!(engine_failure(error).exit_code(), code, "{told}");
        }
    }
}
