//! Reads the inputs one after the other, ahead on a thread of its own; at most one of them is open.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pelton_engine::epoch::{Position, fingerprint};

use super::lines::{Chunk, Lines};
use super::list::{Inputs, One};
use super::open::{ByteCount, Moments, Source};
use super::progress::{InputProgress, Start};
use crate::cli::failure::{Exit, Failure};
use crate::run::START_OVER;

/// Bytes read at a time.
const PART_BYTES: usize = 1 << 20;
/// Chunks that may wait: bounds memory.
const CHUNKS_AHEAD: usize = 4;

/// What the reader says.
pub(in crate::run) enum Read {
    /// The next input stands where its next lines are expected.
    Begun {
        /// It may be silent for a while.
        lives: bool,
    },
    Chunk(Chunk),
    /// This input has ended, another one follows.
    Next {
        stored_bytes: u64,
    },
    /// All inputs have ended.
    End {
        stored_bytes: u64,
    },
    Failed(Failure),
}

/// Inputs that were checked as far as that takes no waiting.
pub(in crate::run) struct Reader {
    inputs: Arc<Inputs>,
    start: Start,
    /// The last committed line.
    position: Position,
    arrival_ms: i64,
    limit: u64,
    counted: ByteCount,
    /// The input at hand, when it could be entered at once, and the lines that were read behind the last committed one.
    entered: Option<(Feed, Option<Chunk>)>,
}

impl Reader {
    /// Looks at how each file begins, and whether the last committed line, which is `position`, is still there.
    /// `limit` is the largest payload.
    ///
    /// # Errors
    /// When a file cannot be read, is no lines of JSON, or was changed.
    pub(in crate::run) fn prepare(
        inputs: Arc<Inputs>,
        progress: &InputProgress,
        position: Position,
        limit: u64,
    ) -> Result<Reader, Failure> {
        let start = progress.start();
        for one in inputs.list.iter().skip(start.file + 1).filter(|one| one.is_file()) {
            Source::open(one, start.moments, &ByteCount::default())?;
        }
        let arrival_ms = progress.arrival_ms();
        let mut reader =
            Reader { inputs, start, position, arrival_ms, limit, counted: ByteCount::default(), entered: None };
        let file = reader.inputs.list.get(start.file).filter(|one| one.is_file()).cloned();
        if let Some(one) = file {
            let mut feed = reader.open(start.file, start.moments, position.sequence)?;
            // What is packed is read again up to there, which takes its time.
            if feed.source.can_jump() || start.offset == 0 {
                let chunk = reader.enter(&mut feed, &one)?;
                reader.entered = Some((feed, chunk));
            }
        }
        Ok(reader)
    }

    /// Starts reading.
    pub(in crate::run) fn start(mut self) -> io::Result<Receiver<Read>> {
        let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
        std::thread::Builder::new().name("reader".into()).spawn(move || {
            if let Err(Stopped::Failed(failure)) = self.read_all(&sender) {
                // The other side may be gone already.
                drop(sender.send(Read::Failed(failure)));
            }
        })?;
        Ok(receiver)
    }

    fn read_all(&mut self, sender: &SyncSender<Read>) -> Result<(), Stopped> {
        let inputs = self.inputs.clone();
        let mut line = self.position.sequence;
        let mut moments = self.start.moments;
        for (file, one) in inputs.list.iter().enumerate().skip(self.start.file) {
            let (mut feed, chunk) = match self.entered.take() {
                Some(entered) => entered,
                None => {
                    let mut feed = self.open(file, moments, line)?;
                    let chunk = if file == self.start.file { self.enter(&mut feed, one)? } else { None };
                    (feed, chunk)
                }
            };
            sender.send(Read::Begun { lives: feed.source.lives() })?;
            if let Some(chunk) = chunk {
                sender.send(Read::Chunk(chunk))?;
            }
            while let Some(mut chunk) = feed.next(one)? {
                chunk.bytes_read = self.counted.bytes();
                moments.last =
                    chunk.batch.events.last().map_or(moments.last, |event| event.published.max(moments.last));
                sender.send(Read::Chunk(chunk))?;
            }
            line = feed.lines.line();
            let stored_bytes = if one.is_file() { feed.source.stored_bytes() } else { 0 };
            let is_last = file + 1 == inputs.list.len();
            sender.send(if is_last { Read::End { stored_bytes } } else { Read::Next { stored_bytes } })?;
        }
        Ok(())
    }

    fn open(&self, file: usize, moments: Moments, line: u64) -> Result<Feed, Failure> {
        let source = Source::open(&self.inputs.list[file], moments, &self.counted)?;
        let lines = Lines::new(self.limit, source.offset, line);
        Ok(Feed { source, lines, part: Vec::new(), is_done: false })
    }

    /// Brings the input at hand to where reading goes on, which is behind the last committed line of it: that line is
    /// read again and must be the same. Gives what was read behind it.
    fn enter(&self, feed: &mut Feed, one: &One) -> Result<Option<Chunk>, Failure> {
        let Start { line_start, offset, .. } = self.start;
        if offset == 0 {
            return Ok(None);
        }
        feed.source.skip_to(line_start).map_err(|error| feed.source.failed(error, one))?;
        if feed.source.offset < line_start {
            return Err(ends_early(one, feed.source.offset, offset));
        }
        feed.lines = Lines::new(self.limit, feed.source.offset, self.position.sequence - 1);
        let Some(mut chunk) = feed.next(one)? else {
            return Err(ends_early(one, feed.source.offset, offset));
        };
        let first = &chunk.batch.events[0];
        if fingerprint(self.arrival_ms, chunk.batch.slice(&first.payload)) != self.position.fingerprint {
            let (line, name) = (self.position.sequence, one.name());
            let what = if one.is_file() { "the file was changed" } else { "other lines were sent" };
            let message = format!("line {line} of {name} is not the one that was consumed: {what}");
            return Err(Failure::halted(message).hint(START_OVER));
        }
        chunk.batch.events.remove(0);
        chunk.ends.remove(0);
        chunk.bytes_read = self.counted.bytes();
        Ok((!chunk.ends.is_empty()).then_some(chunk))
    }
}

/// An input as chunks of lines.
struct Feed {
    source: Source,
    lines: Lines,
    /// Read at a time; allocated when the first part is read.
    part: Vec<u8>,
    is_done: bool,
}

impl Feed {
    /// The next lines; `None` at the end.
    fn next(&mut self, one: &One) -> Result<Option<Chunk>, Failure> {
        while !self.is_done {
            if self.part.is_empty() {
                self.part.resize(PART_BYTES, 0);
            }
            let count = self.source.read(&mut self.part).map_err(|error| self.source.failed(error, one))?;
            self.is_done = count == 0;
            let arrival = self.source.arrival();
            let chunk = match count {
                0 => self.lines.end(arrival),
                count => self.lines.feed(&self.part[..count], arrival),
            };
            if chunk.is_some() {
                return Ok(chunk);
            }
        }
        Ok(None)
    }
}

/// There is less than was consumed before.
fn ends_early(one: &One, found: u64, consumed: u64) -> Failure {
    if one.is_file() {
        let message =
            format!("{} ends after {found} bytes, but {consumed} were consumed: the file was changed", one.name());
        return Failure::halted(message).hint(START_OVER);
    }
    let name = if one.name() == "-" { "stdin".to_owned() } else { one.name() };
    let message = format!("{name} ends after {found} bytes, but {consumed} were consumed before");
    Failure::new(Exit::Environment, anyhow::Error::msg(message))
        .hint("send the same lines again, from the first one on")
}

/// Why reading stops early.
enum Stopped {
    Failed(Failure),
    /// Nobody takes what is read.
    Unwanted,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

impl<T> From<std::sync::mpsc::SendError<T>> for Stopped {
    fn from(_: std::sync::mpsc::SendError<T>) -> Stopped {
        Stopped::Unwanted
    }
}

#[cfg(test)]
mod tests;
