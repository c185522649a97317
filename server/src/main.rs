//! The program `spillway-server`.

use std::io::{Read, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use protocol::Currency;
use protocol::rest::Password;
use server::config::Config;
use server::{admin, routes, serve};

/// Gives memory back: glibc's keeps the 19 MiB of a password's hash for every thread that has hashed one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "spillway-server", version, about = "Serves the Spillway API and the origin's chunks")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT. Prints one JSON line with the address when ready.
    Serve {
        #[command(flatten)]
        config: Box<Config>,
    },
    /// Work on the database of a service.
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Print the OpenAPI document.
    Openapi,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Make an operator: a new user, or an existing one who keeps the password. Prints one JSON line with the user.
    CreateOperator {
        #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
        database_url: String,
        /// The one currency of the service.
        #[arg(long, env = "SPILLWAY_CURRENCY", default_value = "EUR")]
        currency: Currency,
        #[arg(long)]
        email: String,
        /// Read the password of a new user from standard input.
        #[arg(long)]
        password_stdin: bool,
    },
}

/// What went wrong, for the last line on standard error.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut chain: Vec<String> =
                std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source()).map(ToString::to_string).collect();
            // Some libraries' errors end in the text of their cause.
            chain.dedup_by(|cause, error| error.ends_with(cause.as_str()));
            eprintln!("spillway-server: {}", chain.join(": "));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Openapi => Ok(std::io::stdout().write_all(routes::openapi::document_text()?.as_bytes())?),
        Command::Serve { config } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            Ok(runtime.block_on(serve::run(*config))?)
        }
        Command::Admin { command: AdminCommand::CreateOperator { database_url, currency, email, password_stdin } } => {
            let password = if password_stdin { Some(read_password()?) } else { None };
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let user = runtime.block_on(admin::create_operator(&database_url, currency, &email, password))?;
            Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&user)?)?)
        }
    }
}

/// The first line of standard input.
fn read_password() -> std::io::Result<Password> {
    let mut text = String::new();
    std::io::stdin().take(1024).read_to_string(&mut text)?;
    Ok(Password(text.lines().next().unwrap_or_default().to_owned()))
}

/// What is logged unless `RUST_LOG` says otherwise. A client that sends garbage instead of HTTP is no error of ours, and Postgres's notices are none.
const LOGGED: &str = "info,actix_http::h1::dispatcher=off,sqlx::postgres::notice=warn";

/// `RUST_LOG` chooses what is logged; lines of JSON unless standard error is a terminal.
fn log_to_stderr() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| LOGGED.into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().with_span_list(false).init();
    }
}
