//! Our side of a compiler in a child process: asks it, waits with a deadline, and says what its end means.
//!
//! The question is a line of JSON and the module's bytes, on stdin; the answer a line of JSON and machine code, on
//! stdout ([`super::serve`]). The child limits itself before it reads the module.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pelton_engine::guest::World;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::Compiled;
use crate::error::{LoadError, Refusal};
use crate::limits::{CompileLimits, DETAIL_BYTES, Limits, ShapeLimits};
use crate::log::printable;
use crate::verify;

/// The first line of an answer is not longer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Machine code of one module, both builds.
const CODE_BYTES_MAX: usize = 128 << 20;
/// What is kept of the child's stderr.
const STDERR_BYTES_MAX: u64 = 16 << 10;
/// How often a child is looked at; compiling takes a hundred times as long.
const POLL: Duration = Duration::from_millis(2);
/// Threads of one child: each takes address space for its stack and its heap, whatever it compiles.
const THREADS_MAX: usize = 4;

/// The program that compiles: started anew for each module, it calls [`serve`](crate::serve).
#[derive(Clone, Debug)]
pub struct Child {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Set by whoever no longer wants what is being compiled: it is given up within milliseconds.
    pub stop: Arc<AtomicBool>,
}

/// The head of a question.
#[derive(Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) shape: ShapeLimits,
    pub(super) limits: CompileLimits,
}

/// The head of an answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) cost: Cost,
    pub(super) answer: Answer,
}

/// What a child took that was not killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Of the processor, all threads together.
    pub milliseconds: u64,
    /// Largest address space, which is what its limit is about, KiB.
    pub address_kib: u64,
    /// Largest resident memory, KiB.
    pub resident_kib: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Refused {
        refusal: String,
        message: String,
    },
    /// Followed by so many bytes of each build.
    Compiled {
        world: String,
        fast: usize,
        judge: usize,
    },
}

/// What a child left behind.
struct Ended {
    /// How it ended, or why it was killed.
    status: Result<ExitStatus, Killed>,
    answer: Vec<u8>,
    stderr: Vec<u8>,
}

/// Why we have killed a child.
#[derive(Clone, Copy, Debug)]
enum Killed {
    Deadline,
    Stopped,
}

impl Child {
    /// The second is `None` when the child was killed, or not asked.
    pub(crate) fn compile(&self, bytes: &[u8], limits: &Limits) -> (Result<Compiled, LoadError>, Option<Cost>) {
        match self.ask(bytes, limits) {
            Err(error) => (Err(error), None),
            Ok(ended) => match parse(&ended.answer) {
                Some((answer, cost)) => (answer, Some(cost)),
                None => (Err(explain(&ended, &limits.compile)), None),
            },
        }
    }

    fn ask(&self, bytes: &[u8], limits: &Limits) -> Result<Ended, LoadError> {
        // Before anything is started for it, or sent to it.
        verify::size(bytes, &limits.shape)?;
        let question = Question { shape: limits.shape.clone(), limits: limits.compile.clone() };
        let mut head = serde_json::to_vec(&question).map_err(|error| broken(&error.to_string()))?;
        head.push(b'\n');
        self.run(&head, bytes, limits.compile.deadline)
    }

    fn run(&self, head: &[u8], bytes: &[u8], deadline: Duration) -> Result<Ended, LoadError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let started = Command::new(&self.program)
            .args(&self.arguments)
            // Whatever secrets our environment has are none of the compiler's business.
            .env_clear()
            .env("RAYON_NUM_THREADS", threads.to_string())
            .env("MALLOC_ARENA_MAX", "2")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = started.map_err(|error| {
            Refusal::Host.because(format!("cannot start the compiler `{}`: {error}", self.program.display()))
        })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { return Err(broken("it has no pipes")) };
        std::thread::scope(|scope| {
            // A child that has ended does not read, which its status explains.
            scope.spawn(move || stdin.write_all(head).and_then(|()| stdin.write_all(bytes)));
            let said = scope.spawn(move || read(stderr, STDERR_BYTES_MAX));
            let answered = scope.spawn(move || read(stdout, (HEAD_BYTES_MAX + CODE_BYTES_MAX) as u64));
            let status = wait(&mut child, deadline, &self.stop).map_err(|error| broken(&error.to_string()))?;
            let answer = answered.join().map_err(|_| broken("nobody reads its answer"))?;
            let stderr = said.join().map_err(|_| broken("nobody reads what it says"))?;
            Ok(Ended { status, answer, stderr })
        })
    }
}

fn wait(child: &mut process::Child, deadline: Duration, stop: &AtomicBool) -> io::Result<Result<ExitStatus, Killed>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ok(status));
        }
        let is_late = start.elapsed() >= deadline;
        if is_late || stop.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            return Ok(Err(if is_late { Killed::Deadline } else { Killed::Stopped }));
        }
        std::thread::sleep(POLL);
    }
}

/// Reads to the end and keeps at most `limit` bytes. A pipe that breaks has ended as well.
fn read(mut from: impl Read, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.by_ref().take(limit).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    bytes
}

/// A whole answer; `None` for anything else.
pub(crate) fn parse(answer: &[u8]) -> Option<(Result<Compiled, LoadError>, Cost)> {
    let end = answer.iter().take(HEAD_BYTES_MAX).position(|byte| *byte == b'\n')?;
    let (head, code) = (&answer[..end], &answer[end + 1..]);
    let Head { cost, answer } = serde_json::from_slice(head).ok()?;
    match answer {
        Answer::Refused { refusal, message } => {
            let refusal = Refusal::ALL.into_iter().find(|one| one.name() == refusal)?;
            Some((Err(refusal.because(printable(&message, HEAD_BYTES_MAX))), cost))
        }
        Answer::Compiled { world, fast, judge } => {
            if fast.checked_add(judge)? != code.len() {
                return None;
            }
            let world = World::ALL.into_iter().find(|one| one.name() == world)?;
            let (fast, judge) = code.split_at(fast);
            Some((Ok(Compiled { world, fast: fast.to_vec(), judge: judge.to_vec() }), cost))
        }
    }
}

/// Why there is no answer. What the module would bring about each time is its fault; what came from outside is not.
fn explain(ended: &Ended, limits: &CompileLimits) -> LoadError {
    let status = match ended.status {
        Ok(status) => status,
        Err(Killed::Stopped) => return Refusal::Host.because("the compiler was stopped".to_owned()),
        Err(Killed::Deadline) => {
            return Refusal::Host.because(format!(
                "the compiler gave no answer within {} s, of which it has used less than {} s of processor time: is \
                 this machine overloaded?",
                limits.deadline.as_secs(),
                limits.processor_time.as_secs(),
            ));
        }
    };
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = printable(said.trim(), DETAIL_BYTES);
    let signal = status.signal().map(Signal::from_named_raw);
    match signal {
        Some(Some(Signal::XCPU)) => Refusal::Compile.because(format!(
            "module takes more than {} s of processor time to compile",
            limits.processor_time.as_secs()
        )),
        // From outside: by the kernel, when memory is short, or by a person.
        Some(Some(Signal::KILL | Signal::TERM | Signal::INT | Signal::HUP)) => {
            Refusal::Host.because(format!("the compiler was killed: {status}"))
        }
        _ if said.contains("memory allocation of") || said.contains("Cannot allocate memory") => {
            Refusal::Compile.because(format!("module takes more than {} MiB to compile", limits.memory_bytes >> 20))
        }
        _ => Refusal::Compile.because(format!("the compiler failed over this module: {status}: {said}")),
    }
}

fn broken(what: &str) -> LoadError {
    Refusal::Host.because(format!("the compiler cannot be asked: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> CompileLimits {
        CompileLimits { memory_bytes: 512 << 20, ..CompileLimits::default() }
    }

    #[track_caller]
    fn check(status: Result<i32, Killed>, stderr: &str, refusal: Refusal, message: &str) {
        let status = status.map(ExitStatus::from_raw);
        let error = explain(&Ended { status, answer: Vec::new(), stderr: stderr.into() }, &limits());
        assert_eq!(error.refusal, refusal, "{error}");
        assert!(error.message.contains(message), "{error}");
    }

    #[test]
    fn an_end_without_an_answer_is_the_modules_fault_or_the_machines() {
        check(Ok(24), "", Refusal::Compile, "s of processor time");
        check(Ok(6), "memory allocation of 64 bytes failed\n", Refusal::Compile, "more than 512 MiB");
        check(Ok(101 << 8), "thread 'main' panicked at x\x1b[2J", Refusal::Compile, "panicked at x\\u{1b}[2J");
        check(Ok(11), "", Refusal::Compile, "signal: 11");
        check(Ok(9), "", Refusal::Host, "killed");
        check(Err(Killed::Deadline), "", Refusal::Host, "overloaded");
        check(Err(Killed::Stopped), "", Refusal::Host, "stopped");
    }

    #[test]
    fn half_an_answer_is_none() {
        let head = |answer: &str| {
            let cost = r#"{"milliseconds":1,"address_kib":2,"resident_kib":3}"#;
            format!("{{\"cost\":{cost},\"answer\":{answer}}}\n")
        };
        let compiled = |fast: usize, judge: usize| {
            head(&format!(r#"{{"compiled":{{"world":"reducer","fast":{fast},"judge":{judge}}}}}"#)) + "abc"
        };
        let whole = compiled(2, 1).into_bytes();
        let (answer, cost) = parse(&whole).expect("an answer");
        let expected = Compiled { world: World::Reducer, fast: b"ab".into(), judge: b"c".into() };
        assert_eq!((answer, cost.milliseconds), (Ok(expected), 1));
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_none(), "{cut}");
        }
        assert!(parse(&[whole.as_slice(), b"x"].concat()).is_none());
        let refused = |message: &str| {
            let answer = head(&format!(r#"{{"refused":{{"refusal":"shape","message":"{message}"}}}}"#));
            parse(answer.as_bytes()).expect("an answer").0
        };
        assert_eq!(refused("m"), Err(Refusal::Shape.because("m")));
        assert_eq!(refused(r"a\u001b[2Jb"), Err(Refusal::Shape.because("a\\u{1b}[2Jb")));
        assert!(parse(compiled(usize::MAX, 2).as_bytes()).is_none());
        assert!(parse(&vec![b' '; 1 << 20]).is_none());
    }
}
