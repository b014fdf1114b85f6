//! The weather: which fault happens when its time has come.

use crate::rng::Rng;
use crate::scenario::{Disaster, Scenario};

/// One fault, drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies now, after so many more actions, or in a call of the store.
    Crash {
        host: usize,
        when: Death,
        power_cut: bool,
    },
    /// Nothing of the host runs for this long; then it goes on as if nothing had been.
    Pause {
        host: usize,
        ms: u64,
    },
    ClockJump {
        host: usize,
        ms: u64,
    },
    Pace {
        host: usize,
        per_mille: u64,
    },
    Outage {
        ms: u64,
    },
    LogTail {
        epochs: u64,
    },
    LogAnew {
        keep_sequences: bool,
    },
    InputTail {
        messages: u64,
    },
    InputAnew,
    InputExpired {
        messages: u64,
    },
    /// The front of the pipeline stream expires: so many per mille of it.
    LogExpired {
        per_mille: u64,
    },
    /// The input loses what every partition has read.
    ReadExpires,
    /// One message of the input is deleted, so many before its end.
    InputDeleted {
        back: u64,
    },
    ConsumerDeleted,
    LeasesExpire,
    DiskLost {
        host: usize,
    },
    DiskDamaged {
        host: usize,
    },
    DiskFull {
        host: usize,
        writes: u32,
    },
    GuestStorm {
        ms: u64,
    },
}

/// Where a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Now,
    AfterActions(u64),
    InStore(u32),
}

/// The faults of a scenario with their times.
#[must_use]
pub fn draw(scenario: &Scenario) -> Vec<(u64, Fault)> {
    let mut rng = Rng::new(scenario.seed, 2);
    let mut faults: Vec<_> =
        (0..scenario.faults).map(|_| (rng.range(100, scenario.storm_ms), everyday(&mut rng))).collect();
    if scenario.disaster == Disaster::LogExpired {
        // Something has to be left that remembers.
        faults.retain(|(_, fault)| {
            !matches!(fault, Fault::ConsumerDeleted | Fault::DiskLost { .. } | Fault::DiskDamaged { .. })
        });
    }
    let mut disaster = |count: u64, fault: fn(&mut Rng) -> Fault| {
        for _ in 0..count {
            // Also before the first epoch.
            let from = if rng.chance(200) { 50 } else { 1_000 };
            let at = rng.range(from, scenario.storm_ms);
            faults.push((at, fault(&mut rng)));
        }
    };
    match scenario.disaster {
        // Not with lost epochs: what they had read could not be read again.
        Disaster::None => disaster(scenario.seed % 4, |_| Fault::ReadExpires),
        Disaster::LogTail => disaster(1 + scenario.seed % 4, |rng| {
            let most = if rng.chance(100) { 20 } else { 3 };
            Fault::LogTail { epochs: rng.range(1, most) }
        }),
        Disaster::LogAnew => disaster(1, |rng| Fault::LogAnew { keep_sequences: rng.chance(500) }),
        Disaster::InputTail => disaster(1, |rng| Fault::InputTail { messages: rng.range(1, 40) }),
        Disaster::InputAnew => disaster(1, |_| Fault::InputAnew),
        Disaster::LogExpired => disaster(1, |rng| Fault::LogExpired { per_mille: rng.range(100, 1_100).min(1_000) }),
        Disaster::InputExpired => disaster(1, |rng| Fault::InputExpired { messages: rng.range(1, 20) }),
    }
    for _ in 0..scenario.deletes {
        faults.push((rng.range(100, scenario.storm_ms), Fault::InputDeleted { back: rng.below(12) }));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn everyday(rng: &mut Rng) -> Fault {
    let host = rng.below(2) as usize;
    match rng.below(100) {
        0..=11 => Fault::Crash { host, when: Death::Now, power_cut: rng.chance(500) },
        12..=26 => Fault::Crash { host, when: Death::AfterActions(rng.below(12)), power_cut: rng.chance(500) },
        27..=41 => Fault::Crash { host, when: Death::InStore(rng.below(8) as u32), power_cut: rng.chance(500) },
        42..=54 => Fault::Pause { host, ms: rng.range(2_600, 7_000) },
        55..=62 => Fault::Pause { host, ms: rng.range(10, 1_000) },
        63..=65 => Fault::ClockJump { host, ms: rng.range(100, 60_000) },
        66..=67 => Fault::Pace { host, per_mille: rng.range(600, 1_600) },
        68..=73 => Fault::Outage { ms: rng.range(50, 3_000) },
        74..=78 => Fault::ConsumerDeleted,
        79..=83 => Fault::LeasesExpire,
        84..=88 => Fault::DiskLost { host },
        89..=92 => Fault::DiskDamaged { host },
        93..=96 => Fault::DiskFull { host, writes: rng.range(1, 6) as u32 },
        _ => Fault::GuestStorm { ms: rng.range(50, 600) },
    }
}
