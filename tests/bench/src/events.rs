//! The events of the three jobs: the same bytes for the same count, on every machine.
//!
//! Integer arithmetic and exactly rounded floating-point operations only (+ - * / sqrt). The sums of the
//! 2,000,000-event files are in [`SUMS`]; a change of any line here is a change of the yardstick.

use std::io::{self, Write};

/// 2026-01-01T00:00:00Z.
pub const START_MS: u64 = 1_767_225_600_000;
/// Event time that all events together cover.
pub const SPAN_MS: u64 = 6 * 3600 * 1000;
/// (corrupt, sha256) of the 2,000,000-event files.
pub const SUMS: [(bool, &str); 2] = [
    (false, "4322211e082a8d166bbc3938f720feaa2d7baa9a36487bfa984f63f789b184f2"),
    (true, "96f06f55b0ee7c4e20d7824c04166ec5fb9825b29e3fbe257dfb3868137b8b85"),
];

const USERS: usize = 200_000;
const TRACKS: usize = 100_000;
const FARMS: usize = 50;
const FARM_CLIP_MS: u64 = 31_000;
const COUNTRIES: [&str; 8] = ["SE", "US", "DE", "BR", "GB", "FR", "IN", "MX"];
const DEVICES: [&str; 5] = ["ios", "android", "web", "desktop", "speaker"];

/// Whether one event in a hundred is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    Good,
    Corrupt,
}

/// Writes `count` events as JSON lines. `count` must exceed the events of the farm users (about 35,000).
///
/// # Errors
/// When `out` fails.
///
/// # Panics
/// When `count` is too small.
pub fn write(count: usize, quality: Quality, out: &mut dyn Write) -> io::Result<()> {
    let mut rng = SplitMix(0x5EED_2026);
    let (users, tracks) = (zipf(USERS), zipf(TRACKS));
    let plays = plays(count, &users, &mut rng);
    let mut damage = SplitMix(0x0C04_40F7);
    let mut line = String::with_capacity(256);
    for play in &plays {
        let track = pick(&tracks, &mut rng);
        line_of(play, track, quality, &mut rng, &mut damage, &mut line);
        out.write_all(line.as_bytes())?;
    }
    out.flush()
}

struct Play {
    arrival: u64,
    time: u64,
    /// A rank below `USERS`, or a farm user from there on.
    user: u32,
    ms_played: u32,
}

/// All plays by arrival, still without track and device.
fn plays(count: usize, users: &[f64], rng: &mut SplitMix) -> Vec<Play> {
    let mut plays: Vec<Play> = Vec::with_capacity(count);
    for farm in 0..FARMS {
        let mut time = START_MS + rng.below(FARM_CLIP_MS);
        while time < START_MS + SPAN_MS {
            let arrival = time + rng.below(5_000);
            plays.push(Play { arrival, time, user: (USERS + farm) as u32, ms_played: FARM_CLIP_MS as u32 });
            time += FARM_CLIP_MS;
        }
    }
    assert!(plays.len() < count, "the count must exceed the {} farm events", plays.len());
    let normal = count - plays.len();
    for idx in 0..normal {
        let arrival = START_MS + (idx as u64 * SPAN_MS) / normal as u64;
        let lag = match rng.below(100) {
            0..90 => rng.below(5_000),
            90..99 => 5_000 + rng.below(115_000),
            _ => 120_000 + rng.below(480_000),
        };
        let user = pick(users, rng) as u32;
        let short = rng.below(10) < 3;
        let ms_played = if short { 1_000 + rng.below(29_000) } else { 30_000 + rng.below(210_000) };
        plays.push(Play { arrival, time: arrival - lag, user, ms_played: ms_played as u32 });
    }
    // Stable: equal arrivals keep the order in which they were made.
    plays.sort_by_key(|play| play.arrival);
    plays
}

/// One line with its newline. The order of the draws is part of the format.
fn line_of(play: &Play, track: usize, quality: Quality, rng: &mut SplitMix, damage: &mut SplitMix, line: &mut String) {
    use std::fmt::Write as _;
    let country = COUNTRIES[rng.below(8) as usize];
    let device = DEVICES[rng.below(5) as usize];
    let (high, low) = (rng.next(), rng.next());
    // A rank is not an id: scatter ranks over the id space.
    let user = u64::from(play.user);
    let user_id = if user < USERS as u64 { (user * 104_729) % USERS as u64 } else { user };
    let track_id = (track as u64 * 7_919) % TRACKS as u64;
    let hit = quality == Quality::Corrupt && damage.below(100) == 0;
    let kind = if hit { 1 + damage.below(4) } else { 0 };

    line.clear();
    line.push('{');
    if kind != 2 {
        write!(line, "\"user_id\":\"u{user_id:07}\",").expect("a String takes every write");
    }
    match kind {
        1 => write!(line, "\"track_id\":{track_id}"),
        _ => write!(line, "\"track_id\":\"t{track_id:06}\""),
    }
    .expect("a String takes every write");
    let ms_played = if kind == 4 { -i64::from(play.ms_played) } else { i64::from(play.ms_played) };
    write!(
        line,
        ",\"country\":\"{country}\",\"device\":\"{device}\",\"ts\":{},\"ms_played\":{ms_played},\"session_id\":\"{:08x}-{:04x}-{:04x}-{:04x}-{:012x}\",\"app\":\"9.{}.{}\"}}",
        play.time,
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff,
        high % 30,
        low % 1000
    )
    .expect("a String takes every write");
    if kind == 3 {
        // Cut somewhere: never valid JSON.
        let keep = 1 + damage.below(line.len() as u64 - 1) as usize;
        line.truncate(keep);
    }
    line.push('\n');
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// k^(1/20): the fifth root by Newton, then two square roots.
fn root20(k: f64) -> f64 {
    let mut x = 1.0 + (k - 1.0) / 5.0;
    for _ in 0..200 {
        let x4 = x * x * x * x;
        let next = (4.0 * x + k / x4) / 5.0;
        if next == x {
            break;
        }
        x = next;
    }
    x.sqrt().sqrt()
}

/// Cumulative Zipf(1.05) weights of the ranks 1..=n.
fn zipf(n: usize) -> Vec<f64> {
    let mut sum = 0.0;
    (1..=n)
        .map(|rank| {
            let rank = rank as f64;
            sum += 1.0 / (rank * root20(rank));
            sum
        })
        .collect()
}

fn pick(cumulative: &[f64], rng: &mut SplitMix) -> usize {
    let x = rng.unit() * cumulative[cumulative.len() - 1];
    cumulative.partition_point(|weight| *weight <= x).min(cumulative.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn sum(count: usize, quality: Quality) -> String {
        let mut hash = Sha256::new();
        write(count, quality, &mut hash).unwrap();
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The whole files are checked by every `bench` run; this catches a slip in a second.
    #[test]
    fn the_first_bytes_never_change() {
        assert_eq!(sum(40_000, Quality::Good), "3d9ffe2bed7395861ca44c8acdbc9cb1cd2a9acae46d43f0f6a0ff66312ec11a");
        assert_eq!(sum(40_000, Quality::Corrupt), "c6c2d302abc90032c1ff11405c3b38bd449112d9d7e275a384dd8a37f000ebfc");
    }

    #[test]
    fn corrupt_events_are_about_one_percent() {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        write(50_000, Quality::Good, &mut good).unwrap();
        write(50_000, Quality::Corrupt, &mut bad).unwrap();
        let lines = |bytes: &[u8]| bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let differing = lines(&good).iter().zip(&lines(&bad)).filter(|(a, b)| a != b).count();
        assert!((400..600).contains(&differing), "{differing} of 50,000 lines differ");
    }
}
