//! The child's side: limits itself, reads a module, answers.

use std::io::{self, BufRead as _, Read as _};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

use super::Compiled;
use super::child::{Answer, Cost, Head, Question};
use crate::error::LoadError;
use crate::limits::CompileLimits;

/// Answers the one question on stdin: what a process that was started as a [`Child`](crate::Child) does, and nothing else.
#[must_use]
pub fn serve() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn answer() -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut head = Vec::new();
    stdin.read_until(b'\n', &mut head)?;
    let question: Question = serde_json::from_slice(&head)?;
    limit(&question.limits)?;
    let mut bytes = Vec::new();
    stdin.take(question.shape.module_bytes as u64 + 1).read_to_end(&mut bytes)?;
    write(&mut io::stdout().lock(), &super::compile(&bytes, &question.shape))
}

/// Takes from this process what a compiler does not need.
fn limit(limits: &CompileLimits) -> io::Result<()> {
    let set = |resource, soft: u64, hard: u64| setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) });
    let seconds = limits.processor_time.as_secs().max(1);
    // At the soft limit comes a signal that says why; the hard one is for those who would catch it.
    set(Resource::Cpu, seconds, seconds + 1)?;
    set(Resource::As, limits.memory_bytes, limits.memory_bytes)?;
    // No file is written, and no image of memory when it ends.
    set(Resource::Fsize, 0, 0)?;
    set(Resource::Core, 0, 0)?;
    // Nobody would read the answer.
    #[cfg(target_os = "linux")]
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// The answer as [`parse`](super::child::parse) reads it.
pub(crate) fn write(out: &mut impl io::Write, result: &Result<Compiled, LoadError>) -> io::Result<()> {
    let (answer, code) = match result {
        Err(LoadError { refusal, message }) => {
            (Answer::Refused { refusal: refusal.name().to_owned(), message: message.clone() }, [&[][..], &[]])
        }
        Ok(Compiled { world, fast, judge }) => {
            let head = Answer::Compiled { world: world.name().to_owned(), fast: fast.len(), judge: judge.len() };
            (head, [fast.as_slice(), judge])
        }
    };
    let mut head = serde_json::to_vec(&Head { cost: cost(), answer })?;
    head.push(b'\n');
    out.write_all(&head)?;
    code.iter().try_for_each(|code| out.write_all(code))?;
    out.flush()
}

/// What this process has taken; 0 where the system does not tell.
fn cost() -> Cost {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let milliseconds =
        u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Cost { milliseconds, address_kib: kib("VmPeak:").unwrap_or(0), resident_kib: kib("VmHWM:").unwrap_or(0) }
}
