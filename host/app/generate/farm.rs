//! Accounts that play one short clip after the other to earn royalties.

use serde::Serialize;

use super::random::Dice;
use super::render::{Play, user_name};
use super::{Spec, delay};

/// Long enough to count as a stream, and not a second longer.
const CLIP_MS: i64 = 31_000;
/// Different clips of one farm.
const CLIPS: u64 = 3;

/// One account of a farm.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Farm {
    pub(crate) user_id: String,
    #[serde(skip)]
    pub(crate) user: u32,
    /// Event time, milliseconds since 1970.
    pub(crate) first_play: i64,
    pub(crate) last_play: i64,
    pub(crate) plays: u64,
    #[serde(skip)]
    clips: Vec<u32>,
}

impl Farm {
    /// The farms of `spec`; accounts follow the people's, clips follow the tracks people play.
    pub(super) fn draw_all(spec: &Spec, dice: &mut Dice) -> Vec<Farm> {
        let time = spec.farm_time.min(spec.duration);
        (0..spec.farms)
            .map(|idx| {
                let user = spec.users + idx;
                let first_play = spec.start + dice.between(0, spec.duration - time + 1);
                let gaps = (time - 1).max(0) / CLIP_MS;
                let clips =
                    (0..=dice.below(CLIPS)).map(|clip| spec.tracks + idx * CLIPS as u32 + clip as u32).collect();
                let last_play = first_play + gaps * CLIP_MS;
                Farm { user_id: user_name(user), user, first_play, last_play, plays: gaps as u64 + 1, clips }
            })
            .collect()
    }

    pub(super) fn play(&self, dice: &mut Dice, plays: &mut Vec<Play>) {
        for idx in 0..self.plays {
            let ts = self.first_play + idx as i64 * CLIP_MS;
            plays.push(Play {
                arrival: ts + delay(dice),
                ts,
                user: self.user,
                track: self.clips[dice.below(self.clips.len() as u64) as usize],
                ms_played: CLIP_MS as i32,
                salt: 0,
                bad: None,
            });
        }
    }
}
