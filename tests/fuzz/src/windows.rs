//! Windows against the oracle: the bytes are a script of plays, lateness, cuts of batches and epochs, and restarts.

use pelton_engine::effects::Room;
use pelton_engine::plan::WindowKind;
use pelton_engine::time::Span;

use crate::bytes::Bytes;
use crate::kit::{Cuts, Restart};
use crate::oracle::{Sample, Shape, check};

const RESTARTS: [Restart; 4] = [Restart::No, Restart::Snapshot, Restart::FromDeltas, Restart::FromSnapshot];
/// The oracle looks at every window for every play.
const SAMPLES_MAX: usize = 48;

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    let is_fold = script.below(2) == 1;
    let shape = shape(&mut script);
    let cuts = cuts(&mut script);
    let room = Room { records: script.pick(&[900, 2, 3, 5]), bytes: script.pick(&[16 << 20, 200]), ..Room::default() };
    check(shape, &samples(&mut script), &cuts, room, is_fold);
}

fn shape(script: &mut Bytes) -> Shape {
    let sliding = |size, slide| WindowKind::Sliding { size: Span(size), slide: Span(slide) };
    let kinds = [
        sliding(60, 20),
        sliding(40, 10),
        sliding(30, 30),
        WindowKind::Tumbling { size: Span(10) },
        WindowKind::Tumbling { size: Span(50) },
        WindowKind::Global,
    ];
    let kind = script.pick(&kinds);
    let allowed_lateness = if kind == WindowKind::Global { 0 } else { script.pick(&[0, 25, 90]) };
    let delay = script.pick(&[0, 40, 130]);
    let least =
        (script.pick(&[0, 1, 2, 3]), script.pick(&[0, 0, 1, 2]), script.pick(&[i64::MIN, i64::MIN, -30, 0, 15]));
    Shape { kind, allowed_lateness, delay, least }
}

/// Where input and epochs are cut, and what happens at the cuts.
pub(crate) fn cuts(script: &mut Bytes) -> Cuts {
    let batches = (0..script.below(4)).map(|_| 1 + script.below(40)).collect();
    let steps = (0..script.below(4)).map(|_| 1 + script.below(4)).collect();
    let restarts = (0..script.below(6)).map(|_| script.pick(&RESTARTS)).collect();
    Cuts { batches, steps, restarts }
}

fn samples(script: &mut Bytes) -> Vec<Sample> {
    let mut base = 0;
    let mut samples = Vec::new();
    while !script.is_empty() && samples.len() < SAMPLES_MAX {
        let (what, step) = (script.byte(), script.byte());
        base += match step % 32 {
            // Closes many windows at once.
            31 => 700,
            step => i64::from(step),
        };
        let value = script.byte();
        samples.push(Sample {
            key: what % 6,
            time: base - i64::from(step / 32) * 17,
            v: (what & 8 != 0).then(|| i64::from(value) - 100),
            x: (what & 16 != 0).then(|| f64::from(value.cast_signed()) / 4.0),
            s: (what & 32 != 0).then_some(value % 9),
            bad: what >= 0xf0,
        });
    }
    samples
}
