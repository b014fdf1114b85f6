//! How a command fails: one line with the whole chain, a hint on its own line, an exit code with a meaning.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use pelton_broker::{BrokerError, Drift, Trouble};
use pelton_engine::problem::Problem;

use crate::terminal;

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    /// Arguments, pipeline file or module have to be corrected.
    Usage = 2,
    /// Going on could corrupt results.
    Halted = 3,
    /// May work later without any correction.
    Environment = 4,
    /// All of the input was refused: most likely it is not what the pipeline is for.
    Refused = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
    /// Lines printed before the error, such as the problems of a pipeline file.
    details: Vec<String>,
    problems: Vec<Problem>,
}

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into(), hint: None, details: Vec::new(), problems: Vec::new() }
    }

    /// Something to correct on the command line or in a file.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, anyhow::Error::msg(message.into()))
    }

    /// Something outside that may heal.
    pub(crate) fn environment(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Environment, anyhow::Error::msg(message.into()))
    }

    /// A partition stopped because going on could corrupt results.
    pub(crate) fn halted(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Halted, anyhow::Error::msg(message.into()))
    }

    /// Everything that is wrong with a pipeline file.
    pub(crate) fn problems(path: &Path, problems: &[Problem]) -> Failure {
        let path = path.display().to_string();
        let details = problems.iter().flat_map(|problem| problem.in_file(&path)).collect();
        let count = problems.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        Failure { details, problems: problems.to_vec(), ..Failure::usage(format!("{count} {noun} in {path}")) }
    }

    /// What is wrong with a pipeline file, when that is the failure.
    pub(crate) fn as_problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The broker is not as the pipeline needs it; every setting on a line of its own, each remedy once. `None` without
    /// any.
    pub(crate) fn drift(drift: &[Drift]) -> Option<Failure> {
        if drift.is_empty() {
            return None;
        }
        let mut remedies: Vec<&str> = Vec::new();
        for one in drift {
            if !remedies.contains(&one.remedy.as_str()) {
                remedies.push(&one.remedy);
            }
        }
        let message = "the broker is not as the pipeline needs it";
        let failure =
            Failure { details: drift.iter().map(ToString::to_string).collect(), ..Failure::environment(message) };
        Some(failure.hint(remedies.join("; ")))
    }

    /// What the exit code will say.
    #[cfg(test)]
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The same failure with a remedy.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with what was being done in front of it.
    pub(crate) fn context(mut self, what: impl Into<String>) -> Failure {
        self.error = self.error.context(what.into());
        self
    }

    /// Prints it on stderr. A reader that went away, as in `pelton tail … | head`, is a success.
    pub(crate) fn print(&self) -> ExitCode {
        let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        };
        if self.error.chain().any(broken_pipe) {
            return ExitCode::SUCCESS;
        }
        let error = format!("error: {self}");
        let hint = self.hint.as_ref().map(|hint| format!("hint: {hint}"));
        terminal::tell(self.details.iter().chain([&error]).chain(&hint).map(String::as_str));
        self.exit.into()
    }
}

/// The whole chain on one line, without details and hint.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new(Exit::Failed, error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(Exit::Failed, error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::new(Exit::Failed, error)
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Failure {
        let (exit, hint) = match &error {
            BrokerError::Connect { trouble, .. } => (Exit::Environment, connect_hint(*trouble)),
            BrokerError::Version { .. } => (
                Exit::Environment,
                "install a newer nats-server: `just setup` puts one into `.tools` of Pelton's repository",
            ),
            BrokerError::NoJetStream { .. } => (Exit::Environment, "start nats-server with `-js`"),
            BrokerError::Options(_) => (Exit::Usage, "see `pelton help run` for the options of the broker"),
            BrokerError::Request { .. } => (Exit::Environment, "`pelton doctor` checks the broker and its streams"),
        };
        Failure::new(exit, error).hint(hint)
    }
}

fn connect_hint(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Unreachable => "start one with `just broker`, or name it with --server or --context",
        Trouble::Tls => "name the authority of the server's certificate with --tls-ca FILE",
        Trouble::Credentials => "give credentials with --creds, --nkey, --user and --password, --token, or --context",
        Trouble::Address => "write the address as nats://HOST:PORT, or name a --context",
    }
}
