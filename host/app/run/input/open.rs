//! Opening an input: a file, a pipe, a socket or stdin, unpacked when it is packed, at the byte where reading goes on.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

use pelton_engine::time::WallTime;

use super::format::{self, BYTE_ORDER_MARK, Foreign, LIST_BYTES, MAGIC_BYTES, Packing};
use super::list::{Kind, One};
use crate::cli::failure::Failure;
use crate::cli::when;

/// How much of a file is looked at to tell what it is.
const HEAD_BYTES: usize = 64 << 10;

/// Bytes read from all inputs so far, as they are stored.
#[derive(Clone, Debug, Default)]
pub(super) struct ByteCount(Arc<AtomicU64>);

impl ByteCount {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The content of one input.
pub(super) struct Source {
    reader: Box<dyn Read + Send>,
    clock: Clock,
    packing: Packing,
    /// Where `reader` stands in the content, bytes.
    pub(super) offset: u64,
    /// Whether the content can be entered anywhere.
    is_seekable: bool,
    /// Of a file, when it was opened.
    length: u64,
    counted: ByteCount,
    /// What was counted when it was opened.
    counted_before: u64,
}

/// Moments that lines are judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moments {
    /// When the first run over the inputs began.
    pub(super) began: WallTime,
    /// When the last committed line arrived.
    pub(super) last: WallTime,
}

impl Source {
    /// Opens an input and looks at how it begins.
    ///
    /// # Errors
    /// When it cannot be read, or has no event in it for sure.
    pub(super) fn open(one: &One, moments: Moments, counted: &ByteCount) -> Result<Source, Failure> {
        let unreadable = |error| one.unreadable(error);
        let counted_before = counted.bytes();
        let (raw, clock) = open_raw(one, moments).map_err(unreadable)?;
        let length = clock.file_length().map_err(unreadable)?.unwrap_or(0);
        let raw = Box::new(Counted { reader: raw, counted: counted.clone() });
        let magic = Head::read(raw, |head| head.len() >= MAGIC_BYTES || head.contains(&b'\n'));
        let packing = format::packing(&magic.bytes);
        let reader = unpack(packing, magic.back(0)).map_err(unreadable)?;
        let is_list = |head: &[u8]| head.trim_ascii_start().starts_with(b"[") && !head.contains(&b'\n');
        // A file is looked at at length; what lives only until its first line is there.
        let head = match clock.is_file() {
            true => Head::read(reader, |head| head.len() >= if is_list(head) { LIST_BYTES } else { HEAD_BYTES }),
            false => Head::read(reader, |head| head.len() >= HEAD_BYTES || head.contains(&b'\n')),
        };
        if packing != Packing::None && format::packing(&head.bytes) != Packing::None {
            return Err(refused(one, TWICE));
        }
        if let Some(foreign) = format::foreign(&head.bytes, head.is_all) {
            return Err(refused(one, foreign));
        }
        let start = if head.bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let is_seekable = packing == Packing::None && one.is_file();
        let (offset, reader, counted) = (start as u64, head.back(start), counted.clone());
        Ok(Source { reader, clock, packing, offset, is_seekable, length, counted, counted_before })
    }

    /// Goes on at `offset` of the content: by a jump where that is possible, else by reading up to there. The content may
    /// end before it; then `self.offset` says where.
    pub(super) fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        if offset <= self.offset {
            return Ok(());
        }
        if let (true, Clock::File { file, .. }) = (self.is_seekable, &self.clock) {
            let mut file = file.try_clone()?;
            // A jump behind the end would succeed.
            let offset = offset.min(file.metadata()?.len());
            file.seek(io::SeekFrom::Start(offset))?;
            self.reader = Box::new(Counted { reader: Box::new(file), counted: self.counted.clone() });
            self.counted.0.store(self.counted_before + offset, Relaxed);
            self.offset = offset;
            return Ok(());
        }
        let missing = offset - self.offset;
        self.offset += io::copy(&mut (&mut self.reader).take(missing), &mut io::sink())?;
        Ok(())
    }

    /// Whether going on somewhere takes a jump and no reading.
    pub(super) fn can_jump(&self) -> bool {
        self.is_seekable
    }

    /// Bytes that were read of this input, as they are stored.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.counted.bytes().saturating_sub(self.counted_before)
    }

    /// Whether there may be silence between two lines.
    pub(super) fn lives(&self) -> bool {
        !self.clock.is_file()
    }

    /// Reads on; 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = read_some(&mut self.reader, buffer)?;
        self.offset += count as u64;
        if count == 0 {
            self.check_end()?;
        }
        Ok(count)
    }

    /// Whether this is the end of the file that was read, and not of one that somebody has cut off or written anew.
    fn check_end(&self) -> io::Result<()> {
        let (true, Some(length)) = (self.is_seekable, self.clock.file_length()?) else { return Ok(()) };
        // What was read of it may be less than what it had.
        let before = self.length.max(self.stored_bytes());
        if length < before { Err(io::Error::other(Shrunk { before, length })) } else { Ok(()) }
    }

    /// When what was read last has arrived.
    pub(super) fn arrival(&mut self) -> WallTime {
        self.clock.arrival()
    }

    /// Why reading failed: the system may heal, damaged content does not.
    pub(super) fn failed(&self, error: io::Error, one: &One) -> Failure {
        if let Some(shrunk) = error.get_ref().and_then(|error| error.downcast_ref::<Shrunk>()) {
            return Failure::halted(format!("{} {shrunk}", one.name()))
                .hint("its end is not known; put the whole file in its place and run the same command again");
        }
        if self.packing == Packing::None || error.raw_os_error().is_some() {
            return one.unreadable(error);
        }
        let packing = if self.packing == Packing::Gzip { "gzip" } else { "zstd" };
        let message = format!(
            "{} is damaged: its {packing} data is cut short or broken behind byte {} of the content: {error}",
            one.name(),
            self.offset,
        );
        Failure::halted(message)
            .hint("what was read before is committed; put a whole copy in its place and run the same command again")
    }
}

/// A file has less than it had.
#[derive(Debug)]
struct Shrunk {
    before: u64,
    length: u64,
}

impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shrunk { before, length } = self;
        write!(f, "has shrunk to {length} bytes while it was read, from at least {before}")
    }
}

impl std::error::Error for Shrunk {}

/// When lines have arrived: what "too far in the future" is measured against.
enum Clock {
    /// Not before it was last written, and not before the first run over it began. For a file that nobody writes to, that
    /// is the same in each run; what is appended later is not judged by an earlier moment.
    File { file: File, began: WallTime },
    /// When it is read. Never before what was committed, even when the clock was set back.
    Live { last: WallTime },
}

impl Clock {
    fn is_file(&self) -> bool {
        matches!(self, Clock::File { .. })
    }

    /// How long the file is now.
    fn file_length(&self) -> io::Result<Option<u64>> {
        match self {
            Clock::File { file, .. } => Ok(Some(file.metadata()?.len())),
            Clock::Live { .. } => Ok(None),
        }
    }

    fn arrival(&mut self) -> WallTime {
        match self {
            Clock::File { file, began } => {
                let written = file.metadata().and_then(|meta| meta.modified()).ok();
                let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let written = written.map_or(i64::MIN, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
                // A time of writing that lies ahead of the clock is a mistake, and says nothing.
                if began.0 < written && written <= when::now() { WallTime(written) } else { *began }
            }
            Clock::Live { last } => {
                last.0 = last.0.max(when::now());
                *last
            }
        }
    }
}

fn open_raw(one: &One, moments: Moments) -> io::Result<(Box<dyn Read + Send>, Clock)> {
    let file = match one.kind {
        Kind::File | Kind::Pipe => File::open(&one.path)?,
        Kind::Stdin => File::from(io::stdin().as_fd().try_clone_to_owned()?),
        Kind::Socket => {
            let socket = UnixStream::connect(&one.path).map_err(|error| {
                let message = format!("{error}; a socket that is open already is read as `--input -`");
                io::Error::new(error.kind(), message)
            })?;
            return Ok((Box::new(socket), Clock::Live { last: moments.last }));
        }
    };
    let is_file = one.kind != Kind::Pipe && file.metadata()?.is_file();
    let clock = match is_file {
        true => Clock::File { file: file.try_clone()?, began: moments.began },
        false => Clock::Live { last: moments.last },
    };
    Ok((Box::new(file), clock))
}

fn unpack(packing: Packing, packed: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let buffer = |packed| io::BufReader::with_capacity(128 << 10, packed);
    Ok(match packing {
        Packing::None => packed,
        // Both read all members or frames, one behind the other.
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffer(packed))),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(buffer(packed))?),
    })
}

fn read_some(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The beginning of some content, read ahead of its turn.
struct Head {
    bytes: Vec<u8>,
    /// Nothing follows.
    is_all: bool,
    rest: Box<dyn Read + Send>,
}

impl Head {
    /// Reads until it is enough, or to the end, or to where reading fails: that is met again when its turn comes.
    fn read(mut rest: Box<dyn Read + Send>, is_enough: impl Fn(&[u8]) -> bool) -> Head {
        let (mut bytes, mut is_all) = (Vec::new(), false);
        while !is_all && !is_enough(&bytes) {
            let len = bytes.len();
            // Small at first: there may be ten thousand small files.
            bytes.resize(len + len.clamp(4 << 10, HEAD_BYTES), 0);
            let count = match read_some(&mut rest, &mut bytes[len..]) {
                Ok(count) => count,
                Err(error) => {
                    bytes.truncate(len);
                    return Head { bytes, is_all: false, rest: Box::new(Failing(Some(error))) };
                }
            };
            is_all = count == 0;
            bytes.truncate(len + count);
        }
        Head { bytes, is_all, rest }
    }

    /// Puts it back, without its first `start` bytes.
    fn back(self, start: usize) -> Box<dyn Read + Send> {
        let mut bytes = io::Cursor::new(self.bytes);
        bytes.set_position(start as u64);
        Box::new(bytes.chain(self.rest))
    }
}

/// Fails as something before it did.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.take().unwrap_or_else(|| io::Error::other("it failed before")))
    }
}

const TWICE: Foreign = Foreign { name: "packed twice", convert: "zstdcat FILE | zstdcat" };

struct Counted {
    reader: Box<dyn Read + Send>,
    counted: ByteCount,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.counted.0.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

fn refused(one: &One, foreign: Foreign) -> Failure {
    let name = one.name();
    let command = foreign.convert.replace("FILE", &name);
    Failure::usage(format!("{name} is {}, expected lines of JSON, one object each", foreign.name))
        .hint(format!("convert it: `{command} | pelton run … --input -`"))
}
