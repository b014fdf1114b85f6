//! Events from a file or a pipe: lines into batches, read ahead on a thread of its own.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pelton_engine::event::{RawBatch, RawEvent};
use pelton_engine::time::WallTime;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks that may wait: bounds memory.
const CHUNKS_AHEAD: usize = 4;

/// Where reading begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// Byte offset of the next line.
    pub(super) offset: u64,
    /// Number of the last line before it.
    pub(super) line: u64,
    /// When the first run over this input began: what "too far in the future" is measured against, in every restart.
    pub(super) began: WallTime,
}

/// A run of whole lines.
pub(super) struct Chunk {
    pub(super) batch: RawBatch,
    /// Byte offset behind its last line, per event.
    pub(super) ends: Vec<u64>,
}

/// What the reader says.
pub(super) enum Read {
    Chunk(Chunk),
    End,
    Failed(io::Error),
}

/// Starts reading; `None` reads stdin, which is skipped up to the start.
pub(super) fn read(input: Option<PathBuf>, start: Start) -> io::Result<Receiver<Read>> {
    let mut file: Box<dyn io::Read + Send> = match input {
        Some(path) => {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(start.offset))?;
            Box::new(file)
        }
        None => {
            let mut stdin = io::stdin();
            let skipped = io::copy(&mut (&mut stdin).take(start.offset), &mut io::sink())?;
            if skipped < start.offset {
                let message = format!("stdin ends after {skipped} bytes, but {} were consumed before", start.offset);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            Box::new(stdin)
        }
    };
    let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
    std::thread::Builder::new().name("reader".into()).spawn(move || {
        if let Err(error) = read_lines(&mut file, start, &sender) {
            // The other side may be gone already.
            drop(sender.send(Read::Failed(error)));
        }
    })?;
    Ok(receiver)
}

fn read_lines(file: &mut dyn io::Read, start: Start, sender: &SyncSender<Read>) -> io::Result<()> {
    let (mut line, mut offset) = (start.line, start.offset);
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES + rest.len());
        data.append(&mut rest);
        let before = data.len();
        data.resize(before + CHUNK_BYTES, 0);
        let count = loop {
            match file.read(&mut data[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        data.truncate(before + count);
        let is_end = count == 0;
        let whole = if is_end { data.len() } else { memchr::memrchr(b'\n', &data).map_or(0, |at| at + 1) };
        rest.extend_from_slice(&data[whole..]);
        data.truncate(whole);
        if !data.is_empty() {
            let chunk = split(data, &mut line, &mut offset, start.began);
            if sender.send(Read::Chunk(chunk)).is_err() {
                return Ok(());
            }
        }
        if is_end {
            drop(sender.send(Read::End));
            return Ok(());
        }
    }
}

/// Cuts whole lines into events; empty lines are events too: they are dead letters, not lost.
fn split(data: Vec<u8>, line: &mut u64, offset: &mut u64, began: WallTime) -> Chunk {
    let mut chunk = Chunk { batch: RawBatch { data, events: Vec::new() }, ends: Vec::new() };
    let len = chunk.batch.data.len();
    let mut start = 0;
    while start < len {
        let end = memchr::memchr(b'\n', &chunk.batch.data[start..]).map_or(len, |at| start + at);
        let next = (end + 1).min(len);
        *line += 1;
        *offset += (next - start) as u64;
        // A line may end with CR LF.
        let payload_end = if end > start && chunk.batch.data[end - 1] == b'\r' { end - 1 } else { end };
        chunk.batch.events.push(RawEvent {
            sequence: *line,
            published: began,
            payload: start as u32..payload_end as u32,
            ..RawEvent::default()
        });
        chunk.ends.push(*offset);
        start = end + 1;
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(u64, String, u64)> {
        let (sender, receiver) = sync_channel(10);
        read_lines(&mut text.as_bytes(), Start::default(), &sender).unwrap();
        let mut lines = Vec::new();
        while let Ok(Read::Chunk(chunk)) = receiver.recv() {
            for (event, end) in chunk.batch.events.iter().zip(&chunk.ends) {
                lines.push((
                    event.sequence,
                    String::from_utf8(chunk.batch.slice(&event.payload).to_vec()).unwrap(),
                    *end,
                ));
            }
        }
        lines
    }

    #[test]
    fn lines_have_numbers_and_the_offset_behind_them() {
        let expected = |list: &[(u64, &str, u64)]| {
            list.iter().map(|(n, text, end)| (*n, text.to_string(), *end)).collect::<Vec<_>>()
        };
        assert_eq!(lines("a\nbc\r\n\nd"), expected(&[(1, "a", 2), (2, "bc", 6), (3, "", 7), (4, "d", 8)]));
        assert_eq!(lines("a\n"), expected(&[(1, "a", 2)]));
        assert_eq!(lines(""), expected(&[]));
    }
}
