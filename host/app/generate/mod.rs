//! Listening events with farms in them, made from a seed, and what a correct pipeline must say about them.
//!
//! Listeners are people: who plays and what is drawn by Zipf's law, but an account that is still playing cannot start
//! another track, so the draw is repeated. The most popular accounts therefore listen without a pause, about 36 tracks
//! an hour, and no more: without this cap the head of any Zipf distribution out-plays every farm, and all alerts would
//! be about people. A farm plays a 31-second clip every 31 seconds, 116 an hour.
//!
//! Most events arrive at once, some late, a few too late ([`Plays::new`] has the numbers). The ground truth
//! ([`oracle`]) is computed from the events in order of arrival by code that shares nothing with the engine.

mod bad;
mod farm;
pub(crate) mod oracle;
mod random;
mod render;

use std::collections::BTreeMap;

use anyhow::{Result, bail};

pub(crate) use farm::Farm;
pub(crate) use render::{Play, record, user_id};

use bad::Bad;
use random::{Dice, Zipf};

/// Most events. Their times would have room for far more, memory has not: with 32 bytes each these take 128 GiB.
pub(crate) const EVENTS_MAX: u64 = u32::MAX as u64;
const HOUR_MS: i64 = 3_600_000;
/// Mean length of a play of a person, with the pause after it: decides how many accounts are busy at a time.
const BUSY_MS: i64 = 101_000;
/// How often a busy account is drawn again before a free one is looked for.
const REDRAWS: u32 = 16;

/// What to make.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) seed: u64,
    /// All records: people's, farms' and bad ones.
    pub(crate) events: u64,
    /// Event time of the first play that is not late, milliseconds since 1970.
    pub(crate) start: i64,
    /// Length of event time, milliseconds.
    pub(crate) duration: i64,
    pub(crate) users: u32,
    pub(crate) tracks: u32,
    /// Exponent of Zipf's law for users and tracks.
    pub(crate) zipf: f64,
    pub(crate) farms: u32,
    /// How long each farm plays, milliseconds.
    pub(crate) farm_time: i64,
    /// Fraction of people's plays that arrive after every window has closed.
    pub(crate) late: f64,
    /// An event that is this far behind the others is too late for every window.
    pub(crate) too_late: i64,
    /// Fraction of people's plays that are replaced by bad records.
    pub(crate) bad: f64,
}

/// The events in order of arrival, and who the farms are.
pub(crate) struct Plays {
    pub(crate) plays: Vec<Play>,
    pub(crate) farms: Vec<Farm>,
}

impl Plays {
    /// Makes the events of `spec`.
    ///
    /// 90 % arrive within 5 s of being played, 9 % within 2 min, 1 % within 10 min; the share `late` was played up to
    /// two hours before `too_late`, so some of it before `start`.
    ///
    /// # Errors
    /// When there are fewer events than farms alone would play, too few users for so many plays, or too little memory.
    pub(crate) fn new(spec: &Spec) -> Result<Plays> {
        if spec.events > EVENTS_MAX {
            bail!("{} events are more than {EVENTS_MAX}", spec.events);
        }
        let mut dice = Dice::new(spec.seed);
        let farms = Farm::draw_all(spec, &mut dice);
        let farmed: u64 = farms.iter().map(|farm| farm.plays).sum();
        let Some(people) = spec.events.checked_sub(farmed).filter(|count| *count > 0) else {
            bail!("{} farms alone play {farmed} times, but only {} events were asked for", spec.farms, spec.events);
        };
        let busy = i128::from(people) * i128::from(BUSY_MS) / i128::from(spec.duration);
        if busy > i128::from(spec.users / 2) {
            bail!(
                "{people} plays in {} minutes need {busy} people listening at a time, but there are {} users",
                spec.duration / 60_000,
                spec.users
            );
        }
        let mut plays: Vec<Play> = Vec::new();
        if plays.try_reserve_exact(spec.events as usize).is_err() {
            let mebibytes = (spec.events * size_of::<Play>() as u64) >> 20;
            bail!("{} events need {mebibytes} MiB of memory", spec.events);
        }
        for farm in &farms {
            farm.play(&mut dice, &mut plays);
        }
        People::new(spec).play(people, &mut dice, &mut plays);
        // Stable: equal arrivals keep the order in which they were made.
        plays.sort_by_key(|play| play.arrival);
        Ok(Plays { plays, farms })
    }

    /// How many records are bad, by kind.
    pub(crate) fn bad_counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for bad in self.plays.iter().filter_map(|play| play.bad) {
            *counts.entry(bad.name()).or_default() += 1;
        }
        counts
    }
}

/// How long an event is on its way: 90 % up to 5 s, 9 % up to 2 min, 1 % up to 10 min.
fn delay(dice: &mut Dice) -> i64 {
    match dice.below(100) {
        0..90 => dice.between(0, 5_000),
        90..99 => dice.between(5_000, 120_000),
        _ => dice.between(120_000, 600_000),
    }
}

/// Listeners who cannot play two tracks at once.
struct People<'a> {
    spec: &'a Spec,
    users: Zipf,
    tracks: Zipf,
    /// Per user: when its last play ends.
    busy_until: Vec<i64>,
}

impl<'a> People<'a> {
    fn new(spec: &'a Spec) -> People<'a> {
        let users = Zipf::new(spec.users, spec.zipf);
        let tracks = Zipf::new(spec.tracks, spec.zipf);
        People { spec, users, tracks, busy_until: vec![i64::MIN; spec.users as usize] }
    }

    fn play(&mut self, count: u64, dice: &mut Dice, plays: &mut Vec<Play>) {
        let spec = self.spec;
        for idx in 0..count {
            let ts = spec.start + (i128::from(idx) * i128::from(spec.duration) / i128::from(count)) as i64;
            let user = self.free_user(ts, dice);
            // Three of ten tracks are skipped within half a minute.
            let ms_played =
                if dice.below(10) < 3 { dice.between(1_000, 30_000) } else { dice.between(30_000, 240_000) };
            self.busy_until[user as usize] = ts + ms_played + 1_000;
            let late = dice.chance(spec.late);
            let behind = if late { spec.too_late + dice.between(0, 2 * HOUR_MS) } else { 0 };
            plays.push(Play {
                arrival: ts + delay(dice),
                ts: ts - behind,
                user,
                track: self.tracks.draw(dice),
                ms_played: ms_played as i32,
                salt: dice.below(1 << 16) as u16,
                bad: dice.chance(spec.bad).then(|| Bad::draw(dice)),
            });
        }
    }

    /// Some user who is not playing at `ts`. [`Plays::new`] has made sure that about half of them are free.
    fn free_user(&self, ts: i64, dice: &mut Dice) -> u32 {
        for _ in 0..REDRAWS {
            let user = self.users.draw(dice);
            if self.busy_until[user as usize] <= ts {
                return user;
            }
        }
        let first = dice.below(u64::from(self.spec.users)) as u32;
        let around = (first..self.spec.users).chain(0..first);
        around.into_iter().find(|user| self.busy_until[*user as usize] <= ts).unwrap_or(first)
    }
}

#[cfg(test)]
mod tests;
