//! A play as one line of JSON.

use std::io::Write as _;

use super::bad::Bad;
use super::random::mix;

const COUNTRIES: [&str; 8] = ["SE", "US", "DE", "BR", "GB", "FR", "IN", "MX"];
const DEVICES: [&str; 5] = ["ios", "android", "web", "desktop", "speaker"];
/// Odd, so that multiplying by it modulo 2³² keeps numbers apart; it scatters ranks, since a rank is not an id.
const SCATTER: u64 = 2_654_435_761;

/// One listening event. Everything that belongs to the account follows from `user`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Play {
    /// When it reaches the stream, milliseconds since 1970. Only its order counts.
    pub(crate) arrival: i64,
    /// When it was played, milliseconds since 1970.
    pub(crate) ts: i64,
    pub(crate) user: u32,
    pub(crate) track: u32,
    pub(crate) ms_played: i32,
    /// Where a truncated record is cut.
    pub(crate) salt: u16,
    pub(crate) bad: Option<Bad>,
}

/// What the account is called.
pub(crate) fn user_id(play: &Play) -> String {
    user_name(play.user)
}

/// The name of an account.
pub(crate) fn user_name(user: u32) -> String {
    format!("u{:010}", u64::from(user) * SCATTER % (1 << 32))
}

/// The name of a track.
pub(crate) fn track_name(track: u32) -> String {
    format!("t{:010}", u64::from(track) * SCATTER % (1 << 32))
}

/// Writes the record that goes out for this play, good or bad, without a newline, into an empty `line`.
pub(crate) fn record(play: &Play, line: &mut Vec<u8>) {
    line.clear();
    match play.bad {
        None => write(play, line),
        Some(bad) => bad.write(play, line),
    }
}

/// Writes a good record without a newline.
pub(super) fn write(play: &Play, line: &mut Vec<u8>) {
    let account = mix(u64::from(play.user), 1);
    let session = mix(u64::from(play.user), play.ts.unsigned_abs() / 3_600_000);
    let written = write!(
        line,
        "{{\"user_id\":\"{}\",\"track_id\":\"{}\",\"country\":\"{}\",\"device\":\"{}\",\"ts\":{},\"ms_played\":{},\
         \"session_id\":\"{:08x}-{:04x}-{:04x}-{:012x}\",\"app\":\"9.{}.{}\"}}",
        user_name(play.user),
        track_name(play.track),
        COUNTRIES[(account % 8) as usize],
        DEVICES[(account / 8 % 5) as usize],
        play.ts,
        play.ms_played,
        session >> 32,
        session >> 16 & 0xffff,
        session & 0xffff,
        mix(session, 2) & 0xffff_ffff_ffff,
        account / 40 % 30,
        account / 1200 % 1000,
    );
    written.expect("writing to memory does not fail");
}
