//! Records that no consumer should accept: one kind per way in which producers go wrong.

use super::random::Dice;
use super::render::{self, Play};

/// A way to be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bad {
    Truncated,
    InvalidUtf8,
    Scalar,
    Array,
    TrailingText,
    KeyMissing,
    KeyType,
    KeyDuplicate,
    TimeMissing,
    TimeText,
    TimeZero,
    TimeNegative,
    TimeInSeconds,
    TimeYear9999,
    FieldMissing,
    FieldType,
    NotANumber,
    HugeNumber,
    DeepNesting,
    /// The only kind that needs a validator: everything decodes, but the value makes no sense.
    PlayedNegative,
}

/// Every kind; each bad record is of one of them, evenly.
pub(crate) const ALL: [Bad; 20] = [
    Bad::Truncated,
    Bad::InvalidUtf8,
    Bad::Scalar,
    Bad::Array,
    Bad::TrailingText,
    Bad::KeyMissing,
    Bad::KeyType,
    Bad::KeyDuplicate,
    Bad::TimeMissing,
    Bad::TimeText,
    Bad::TimeZero,
    Bad::TimeNegative,
    Bad::TimeInSeconds,
    Bad::TimeYear9999,
    Bad::FieldMissing,
    Bad::FieldType,
    Bad::NotANumber,
    Bad::HugeNumber,
    Bad::DeepNesting,
    Bad::PlayedNegative,
];

/// 9999-12-31T23:59:59Z.
const YEAR_9999: i64 = 253_402_300_799_000;
/// Deeper than any sane parser follows.
const DEPTH: usize = 10_000;
/// How far ahead of its neighbours a record that does not decode claims to be: a host that let it move the watermark
/// would drop good events and miss the ground truth.
const AHEAD_MS: i64 = 60_000;
/// How far behind its neighbours a record that decodes is, so that it does not matter whether it counts.
const BEHIND_MS: i64 = 300_000;

impl Bad {
    pub(super) fn draw(dice: &mut Dice) -> Bad {
        ALL[dice.below(ALL.len() as u64) as usize]
    }

    /// The name in the ground truth.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Bad::Truncated => "truncated",
            Bad::InvalidUtf8 => "invalid-utf8",
            Bad::Scalar => "scalar",
            Bad::Array => "array",
            Bad::TrailingText => "trailing-text",
            Bad::KeyMissing => "key-missing",
            Bad::KeyType => "key-type",
            Bad::KeyDuplicate => "key-duplicate",
            Bad::TimeMissing => "time-missing",
            Bad::TimeText => "time-text",
            Bad::TimeZero => "time-zero",
            Bad::TimeNegative => "time-negative",
            Bad::TimeInSeconds => "time-in-seconds",
            Bad::TimeYear9999 => "time-year-9999",
            Bad::FieldMissing => "field-missing",
            Bad::FieldType => "field-type",
            Bad::NotANumber => "not-a-number",
            Bad::HugeNumber => "huge-number",
            Bad::DeepNesting => "deep-nesting",
            Bad::PlayedNegative => "played-negative",
        }
    }

    /// Writes `play` broken in this way, without a newline.
    pub(super) fn write(self, play: &Play, line: &mut Vec<u8>) {
        let shift = if self == Bad::PlayedNegative { -BEHIND_MS } else { AHEAD_MS };
        let play = Play { ts: play.ts + shift, ..*play };
        let ms = play.ms_played;
        match self {
            Bad::Scalar => line.extend_from_slice(b"42"),
            Bad::Array => line.extend_from_slice(format!("[\"{}\",{}]", render::user_id(&play), play.ts).as_bytes()),
            Bad::Truncated => {
                render::write(&play, line);
                let keep = 1 + play.salt as usize % (line.len() - 1);
                line.truncate(keep);
            }
            Bad::TrailingText => {
                render::write(&play, line);
                line.push(b'}');
            }
            Bad::InvalidUtf8 => replace(&play, line, b"\"app\":\"9", b"\"app\":\"\xff\xfe9"),
            Bad::KeyMissing => replace(&play, line, b"\"user_id\"", b"\"user\""),
            Bad::KeyType => replace(&play, line, b"\"user_id\":", b"\"user_id\":true,\"user\":"),
            Bad::KeyDuplicate => replace(&play, line, b"\"user_id\":", b"\"user_id\":\"u0\",\"user_id\":"),
            Bad::TimeMissing => replace(&play, line, b"\"ts\":", b"\"at\":"),
            Bad::TimeText => replace(&play, line, b"\"ts\":", b"\"ts\":\"yesterday\",\"at\":"),
            Bad::TimeZero => render::write(&Play { ts: 0, ..play }, line),
            Bad::TimeNegative => render::write(&Play { ts: -play.ts, ..play }, line),
            Bad::TimeInSeconds => render::write(&Play { ts: play.ts / 1000, ..play }, line),
            Bad::TimeYear9999 => render::write(&Play { ts: YEAR_9999, ..play }, line),
            Bad::FieldMissing => replace(&play, line, b"\"track_id\"", b"\"track\""),
            Bad::FieldType => replace(&play, line, b"\"ms_played\":", b"\"ms_played\":\"long\",\"ms\":"),
            Bad::NotANumber => replace(&play, line, b"\"ms_played\":", b"\"ms_played\":NaN,\"ms\":"),
            Bad::HugeNumber => replace(&play, line, b"\"ms_played\":", b"\"ms_played\":1e400,\"ms\":"),
            Bad::DeepNesting => {
                let mut deep = b"\"ms_played\":".to_vec();
                deep.resize(deep.len() + DEPTH, b'[');
                deep.resize(deep.len() + DEPTH, b']');
                deep.extend_from_slice(b",\"ms\":");
                replace(&play, line, b"\"ms_played\":", &deep);
            }
            Bad::PlayedNegative => render::write(&Play { ms_played: -ms, ..play }, line),
        }
    }
}

/// Writes `play` with the first `old` replaced.
fn replace(play: &Play, line: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    render::write(play, line);
    let at = memchr::memmem::find(line, old).expect("every rendered play has all its fields");
    line.splice(at..at + old.len(), new.iter().copied());
}
