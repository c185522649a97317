//! The real `spillway` program, called as a person would, with its answers as JSON.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::PASSWORD;
use crate::children::{Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

/// One call; an upload of a large file is the longest.
const CALL_DEADLINE: Duration = Duration::from_secs(600);

/// Where the demo runs.
#[derive(Debug)]
pub(crate) struct Deployment<'a> {
    pub(crate) project: &'a Project,
    /// The server's address.
    pub(crate) server: String,
    pub(crate) folder: PathBuf,
    pub(crate) interrupt: Interrupt,
}

/// One person's configuration folder.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    pub(crate) deployment: &'a Deployment<'a>,
    pub(crate) name: String,
}

impl<'a> Client<'a> {
    pub(crate) fn register(deployment: &'a Deployment<'a>, name: &str, email: &str) -> Result<Self, Failure> {
        Ok(Self::enter(deployment, name, &["register", "--email", email])?.0)
    }

    pub(crate) fn login(deployment: &'a Deployment<'a>, name: &str, email: &str) -> Result<Self, Failure> {
        Ok(Self::enter(deployment, name, &["login", "--email", email])?.0)
    }

    /// Registers or logs in: `arguments` say which, and what else is to be known of this machine. With the program's answer.
    pub(crate) fn enter(deployment: &'a Deployment<'a>, name: &str, arguments: &[&str]) -> Result<(Self, Value), Failure> {
        let client = Self { deployment, name: name.to_owned() };
        let folder = client.folder();
        fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
        let arguments = [arguments, &["--server", &deployment.server, "--password-stdin"]].concat();
        let answer = client.answer(&arguments, &format!("{PASSWORD}\n"))?;
        Ok((client, answer))
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.deployment.folder.join(&self.name)
    }

    /// Runs one command to its end and reads its answer.
    pub(crate) fn call(&self, arguments: &[&str]) -> Result<Value, Failure> {
        self.answer(arguments, "")
    }

    fn answer(&self, arguments: &[&str], input: &str) -> Result<Value, Failure> {
        let output = self.folder().join("answer.json");
        let streams = Output::Split { announcements: output.clone(), log: self.folder().join("call.log") };
        let name = format!("{}: spillway {}", self.name, arguments.first().unwrap_or(&""));
        let launch = self.launch(&name, arguments, streams).input(input);
        launch.start(&self.deployment.interrupt)?.succeed_within(CALL_DEADLINE)?;
        let text = fs::read_to_string(&output).map_err(|error| Failure::file("read", &output, &error))?;
        serde_json::from_str(&text).map_err(|error| Failure::told(format!("{name} did not answer in JSON ({error}): {text}")))
    }

    /// The program with this person's configuration.
    pub(crate) fn launch(&self, name: &str, arguments: &[&str], output: Output) -> Launch {
        let ending = Ending::terminate(Duration::from_secs(5));
        let mut launch = Launch::new(name, self.deployment.project.client_program(), None, ending, output);
        launch.command.args(arguments).arg("--json").arg("--config").arg(self.folder());
        launch.command.current_dir(&self.deployment.project.root);
        launch
    }
}

/// A text at a JSON pointer of an answer.
pub(crate) fn text(answer: &Value, pointer: &str) -> Result<String, Failure> {
    let found = answer.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| Failure::told(format!("an answer of the client has no text at {pointer}: {answer}")))
}

/// A whole number at a JSON pointer of an answer.
pub(crate) fn number(answer: &Value, pointer: &str) -> Result<u64, Failure> {
    let found = answer.pointer(pointer).and_then(Value::as_u64);
    found.ok_or_else(|| Failure::told(format!("an answer of the client has no whole number at {pointer}: {answer}")))
}
