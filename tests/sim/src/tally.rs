//! Counts of what was survived.

use std::fmt;

macro_rules! tally {
    ($($name:ident: $what:literal,)*) => {
        /// One counter per kind of event.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Tally { $(pub $name: u64,)* }

        impl Tally {
            /// Adds the counts of another run.
            pub fn add(&mut self, other: &Tally) { $(self.$name += other.$name;)* }
        }

        impl fmt::Display for Tally {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "{:>12}  {}", self.$name, $what)?;)*
                Ok(())
            }
        }
    };
}

tally! {
    events: "input events",
    epochs: "epochs committed",
    steps: "simulated steps",
    simulated_ms: "simulated milliseconds",
    crashes: "host crashes",
    power_cuts: "of them power cuts that took unsynced epochs",
    pauses: "pauses longer than the lease",
    clock_jumps: "clock jumps",
    lost: "messages lost",
    doubled: "messages doubled",
    late: "messages late by up to 6 s",
    outages: "broker outages",
    tail_losses: "tail losses of the pipeline stream",
    epochs_lost: "acknowledged epochs lost by it",
    anew: "pipeline streams purged or made again",
    input_faults: "inputs rolled back, made again or expired",
    expiries: "times that read events expired",
    deleted: "input messages deleted one by one",
    holes: "holes told",
    events_lost: "sequences counted as lost",
    idle: "epochs by idle time",
    unsaved: "snapshots not saved",
    consumers_deleted: "consumers deleted",
    disks_lost: "disks lost",
    disks_damaged: "disks damaged",
    disks_full: "disks full for a while",
    guest_storms: "storms of guest faults",
    rejections: "batches refused by a fence",
    doubts: "doubtful outcomes resolved",
    lease_losses: "leases granted while another host believed in its own",
    starts: "recoveries: start",
    continues: "recoveries: continue",
    republished: "recoveries: published again from the outbox",
    replayed: "recoveries: changes replayed",
    rebuilt: "recoveries: rebuilt from snapshot and changes",
    quarantines: "stores set aside",
    halts: "halts, each with the right code",
}
