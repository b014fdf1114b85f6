//! Whether a pipeline can go on from a marker: the same events, and state that it can read.

use super::Halted;
use crate::codes::HaltCode;
use crate::epoch::{Manifest, Marker, Section};
use crate::step::Engine;

/// Whether this engine can read the state behind a marker, and goes on with the same pipeline over the same partitions.
/// The manifest of a snapshot of this state, where there is one, tells what its layouts stand for.
///
/// # Errors
/// What differs, both sides.
pub fn is_compatible(
    marker: &Marker,
    partition: u32,
    engine: &Engine,
    snapshot: Option<&Manifest>,
) -> Result<(), Halted> {
    let differs = |evidence| Err(Halted::new(HaltCode::StateIncompatible, evidence));
    let source = &engine.plan().source;
    let (found, wanted) = ((marker.partition, marker.partitions), (partition, source.partitions));
    if found != wanted {
        return differs(format!(
            "epoch {} is of partition {} of {}, this is partition {} of {}: the number of partitions cannot change",
            marker.epoch, found.0, found.1, wanted.0, wanted.1
        ));
    }
    let key = source.key.to_string();
    if marker.key != key {
        return differs(format!(
            "epoch {} has events by key `{}`, the pipeline now takes `{key}`: the key cannot change",
            marker.epoch, marker.key
        ));
    }
    let wanted = engine.sections();
    let is_same = |(found, wanted): (&Section, &Section)| {
        found.name == wanted.name && found.operator == wanted.operator && found.layout == wanted.layout
    };
    if marker.sections.len() == wanted.len() && marker.sections.iter().zip(&wanted).all(is_same) {
        return Ok(());
    }
    let named =
        |section: &Section| format!("`{}` ({}, layout {:016x})", section.name, section.operator, section.layout);
    let list = |sections: &[Section]| sections.iter().map(named).collect::<Vec<_>>().join(", ");
    let before = |name: &str| {
        let found = marker.sections.iter().find(|found| found.name == name)?;
        let sections = &snapshot?.sections;
        sections.iter().find(|stored| stored.layout == found.layout).map(|stored| &stored.layout_text)
    };
    let texts: Vec<String> = wanted
        .iter()
        .zip(engine.layouts())
        .filter(|(wanted, _)| !marker.sections.iter().any(|found| is_same((found, wanted))))
        .map(|(wanted, layout)| match before(&wanted.name) {
            Some(before) => format!("; `{}` was {before} and is now {layout}", wanted.name),
            None => format!("; `{}` is now {layout}", wanted.name),
        })
        .collect();
    let held = match marker.totals_sum.held {
        0 => String::new(),
        held => format!("; {held} events wait in it for their turn"),
    };
    differs(format!(
        "epoch {} has state of {}, the pipeline now wants {}{}{held}",
        marker.epoch,
        list(&marker.sections),
        list(&wanted),
        texts.concat()
    ))
}

/// Whether an engine that was restored holds as many events as its marker says: what is held is in no stream any more.
///
/// # Errors
/// Both counts.
pub fn holds_all(marker: &Marker, engine: &Engine) -> Result<(), Halted> {
    let (held, said) = (engine.held(), marker.totals_sum.held);
    if held == said {
        return Ok(());
    }
    let evidence = format!("the state of epoch {} holds {held} events, its marker says {said}", marker.epoch);
    Err(Halted::new(HaltCode::TotalsMismatch, evidence))
}
