//! The same lines whatever the parts, at the edges of the limit, and for lines that do not end.

use proptest::prelude::*;

use super::*;

/// One line: number, payload, offset behind it, and length and hash of the whole where it was cut.
type Line = (u64, Vec<u8>, u64, Option<(u64, [u8; 32])>);

fn take(chunk: Option<Chunk>, lines: &mut Vec<Line>) {
    let Some(chunk) = chunk else { return };
    assert_eq!(chunk.batch.events.len(), chunk.ends.len());
    for (event, end) in chunk.batch.events.iter().zip(&chunk.ends) {
        let whole = event.whole.as_ref().map(|whole| (whole.bytes, whole.sha256));
        lines.push((event.sequence, chunk.batch.slice(&event.payload).to_vec(), *end, whole));
    }
}

fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>, limit: u64) -> Vec<Line> {
    let mut reader = Lines::new(limit, 0, 0);
    let mut lines = Vec::new();
    for part in parts {
        take(reader.feed(part, WallTime(0)), &mut lines);
    }
    take(reader.end(WallTime(0)), &mut lines);
    lines
}

/// The slow and obvious way.
fn expected(text: &[u8], limit: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut end = 0;
    for (idx, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        end += line.len() as u64;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let whole = (line.len() > limit).then(|| (line.len() as u64, Sha256::digest(line).into()));
        let mut kept = line.len().min(limit);
        while whole.is_some() && kept > 0 && limit - kept < 3 && line[kept] & 0xc0 == 0x80 {
            kept -= 1;
        }
        if whole.is_some() && line[kept] & 0xc0 == 0x80 {
            kept = limit;
        }
        lines.push((idx as u64 + 1, line[..kept].to_vec(), end, whole));
    }
    lines
}

#[test]
fn lines_have_numbers_and_the_offset_behind_them() {
    let plain = |number, text: &str, end| (number, text.as_bytes().to_vec(), end, None);
    let expected = [plain(1, "a", 2), plain(2, "bc", 6), plain(3, "", 7), plain(4, "d", 8)];
    assert_eq!(read([&b"a\nbc\r\n\nd"[..]], 64), expected);
    assert_eq!(read([&b"a\n"[..]], 64), expected[..1]);
    assert_eq!(read([&b""[..]], 64), []);
}

/// A line of the limit, of one more and of one less, with both line ends, in parts of every size.
#[test]
fn the_limit_is_met_to_the_byte() {
    for len in 62..=68 {
        for line_end in ["\n", "\r\n", "", "\r", "\r\r\n"] {
            let text = format!("{{}}\n{}{line_end}", "x".repeat(len));
            for size in 1..=text.len() {
                assert_eq!(
                    read(text.as_bytes().chunks(size), 64),
                    expected(text.as_bytes(), 64),
                    "{len} {line_end:?} {size}"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn lines_do_not_depend_on_the_parts(
        words in prop::collection::vec(prop::sample::select(vec!["\n", "\r", "\r\n", "ä", "\u{1f600}", "abcdefgh"]), 0..60),
        cuts in prop::collection::vec(0usize..200, 0..8),
        limit in 1u64..40,
    ) {
        let text = words.concat().into_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let parts = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
        prop_assert_eq!(read(parts, limit), expected(&text, limit as usize));
    }
}

/// 64 MiB without a line break: no more is held than the limit and a part, and one event tells the length.
#[test]
fn a_line_without_end_is_held_in_part() {
    const PART: usize = 1 << 20;
    let (limit, parts) = (64 << 10, 64);
    let part = vec![b'x'; PART];
    let mut lines = Lines::new(limit, 0, 0);
    for _ in 0..parts {
        assert!(lines.feed(&part, WallTime(0)).is_none());
        assert!(lines.held() <= limit as usize + 4, "{} bytes are held", lines.held());
    }
    let chunk = lines.feed(b"\n{}\n", WallTime(0)).expect("two lines");
    assert!(chunk.batch.data.capacity() <= 2 * PART, "{} bytes", chunk.batch.data.capacity());
    let whole = chunk.batch.events[0].whole.as_ref().expect("it was cut");
    assert_eq!((whole.bytes, chunk.ends[0]), ((PART * parts) as u64, (PART * parts) as u64 + 1));
    assert_eq!(chunk.batch.events[0].payload.len(), limit as usize);
    assert_eq!(chunk.batch.slice(&chunk.batch.events[1].payload), b"{}");
    assert_eq!(lines.held(), 0);
}

/// Offsets and lengths have 64 bits: nothing wraps at 4 GiB.
#[test]
fn offsets_go_beyond_four_gibibytes() {
    let start = u64::from(u32::MAX) - 1;
    let mut lines = Lines::new(4, start, 7);
    let chunk = lines.feed(b"ab\nabcdefghij", WallTime(0)).expect("a line");
    assert_eq!((chunk.batch.events[0].sequence, chunk.ends[0]), (8, start + 3));
    lines.long.as_mut().expect("longer than the limit").bytes += 5 << 30;
    let chunk = lines.feed(b"\n", WallTime(0)).expect("a line");
    assert_eq!(chunk.batch.events[0].whole.as_ref().expect("it was cut").bytes, (5 << 30) + 10);
    assert_eq!(chunk.ends[0], start + 3 + (5 << 30) + 11);
}
