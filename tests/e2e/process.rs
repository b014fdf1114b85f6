//! Processes of tests: started, watched, killed, never left behind.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
pub(crate) const GLANCE: Duration = Duration::from_millis(3);

/// The program of this build, told nothing by the environment of the test.
pub(crate) fn pelton(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("NATS_") || text.starts_with("PELTON_") {
            command.env_remove(&name);
        }
    }
    // A saved context of the user must not count; compiled modules are kept from run to run.
    command.env("XDG_CONFIG_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/no-config"));
    command.env("PELTON_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/modules"));
    command.env("NO_COLOR", "1").args(args).stdin(Stdio::null());
    command
}

/// The command, started by a shell that does something to itself before, such as `umask 000`.
pub(crate) fn shell(before: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{before} && exec \"$0\" \"$@\""));
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// A running process; it dies with this value.
pub(crate) struct Process {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    what: String,
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    what: String,
}

impl Process {
    /// Starts it with its words going to files.
    pub(crate) fn start(command: &mut Command) -> Process {
        let file = || NamedTempFile::new().expect("a temporary file");
        let (stdout, stderr) = (file(), file());
        let open = |file: &NamedTempFile| File::options().append(true).open(file.path()).expect("a temporary file");
        command.stdout(open(&stdout)).stderr(open(&stderr));
        let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let child = command.spawn().expect("the program starts");
        Process { child, stdout, stderr, what }
    }

    /// The pipe to its input, once, if it was started with one.
    pub(crate) fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("started with a pipe as input")
    }

    /// How many files and connections it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process that runs").count()
    }

    /// Sends a signal by its name, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(status.expect("a shell").success(), "kill -{name}");
    }

    /// `kill -9`; whether it was still running.
    pub(crate) fn kill(&mut self) -> bool {
        self.child.kill().expect("a child of ours can be killed");
        self.child.wait().expect("a child of ours can be awaited").signal() == Some(9)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours can be awaited")
    }

    /// What it has said on stderr so far.
    pub(crate) fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until its stderr holds `text`.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let what = self.what.clone();
        until(&format!("`{text}` from {what}"), || {
            let found = self.stderr().contains(text);
            assert!(found || self.ended().is_none(), "{what} ended without `{text}`:\n{}", self.stderr());
            found.then_some(())
        });
    }

    /// Waits until a partition works. The word alone is not enough: notes about the input say it too, and earlier.
    #[track_caller]
    pub(crate) fn wait_until_running(&mut self) {
        self.wait_for("running pipeline=");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Said {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "{} hangs:\n{}", self.what, self.stderr());
            std::thread::sleep(GLANCE);
        };
        Said { status, stdout: read(&self.stdout), stderr: self.stderr(), what: self.what.clone() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Said {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Said {
        let Said { status, stdout, stderr, what } = &self;
        assert_eq!(status.code(), Some(expected), "{what}: {status}\n{stdout}\n{stderr}");
        self
    }

    /// Asserts that stderr holds each of these.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Said {
        for text in texts {
            assert!(self.stderr.contains(text), "{}: no `{text}` in\n{}", self.what, self.stderr);
        }
        self
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Said {
    Process::start(command).wait()
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(GLANCE);
    }
}

fn read(file: &NamedTempFile) -> String {
    let bytes = std::fs::read(file.path()).expect("a temporary file");
    String::from_utf8_lossy(&bytes).into_owned()
}
