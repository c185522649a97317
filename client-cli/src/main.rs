//! The `spillway` program: a terminal on the command line, and the publisher's and operator's tool.

mod arguments;
mod commands;
mod failure;
mod folder;
mod kit;
mod layout;
mod password;
mod progress;
mod random;
mod screen;
mod session;
mod upload;
mod values;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use arguments::Arguments;
use commands::Setting;
use failure::{Failure, Outcome};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version go to standard output and are no failure; clap's own code for a bad line is 2, as promised.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
        }
    };
    let json = arguments.json;
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, json);
            ExitCode::from(&failure)
        }
    }
}

/// One line on standard error. If that is gone, the exit code still tells.
fn tell(failure: &Failure, json: bool) {
    let line = if json { failure.to_json().to_string() } else { format!("spillway: {}", screen::clean(&failure.to_string())) };
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn start(arguments: Arguments) -> Outcome<()> {
    let filter = EnvFilter::try_from_env("SPILLWAY_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let setting = Setting::open(arguments.config, arguments.kit.as_deref(), arguments.json)?;
    // Disk, hashes and the packets of a fast line have threads of their own. A second worker is woken for what the first one is about to do anyway: a fifth more wake-ups and
    // a twelfth more processor time on a terminal with fifteen links.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failure::while_doing("cannot start"))?;
    let outcome = runtime.block_on(commands::run(arguments.command, &setting));
    // Work that was given up, such as a read of a slow disk, keeps nobody waiting.
    runtime.shutdown_background();
    outcome
}
