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
    let evidence = difference(&marker.sections, &wanted, &engine.layouts(), snapshot);
    let held = match marker.totals_sum.held {
        0 => String::new(),
        held => format!("; {held} events wait in it for their turn"),
    };
    differs(format!("this pipeline cannot read the state of epoch {}: {evidence}{held}", marker.epoch))
}

/// How two lists of sections differ, in words. `layouts` are those of `wanted`.
fn difference(found: &[Section], wanted: &[Section], layouts: &[&str], snapshot: Option<&Manifest>) -> String {
    let named = |sections: &[Section], name: &str| sections.iter().position(|section| section.name == name);
    let gone = found.iter().filter(|section| named(wanted, &section.name).is_none());
    let gone = gone.map(|section| format!("`{}` ({}) is gone", section.name, section.operator));
    let stored = |found: &Section| {
        let sections = &snapshot?.sections;
        sections.iter().find(|stored| stored.layout == found.layout).map(|stored| stored.layout_text.as_str())
    };
    let others = wanted.iter().zip(layouts).filter_map(|(section, layout)| {
        let name = &section.name;
        let Some(before) = named(found, name).map(|idx| &found[idx]) else {
            return Some(format!("`{name}` ({}) is new", section.operator));
        };
        if (&before.operator, before.layout) == (&section.operator, section.layout) {
            return None;
        }
        Some(match stored(before) {
            Some(before) => format!("`{name}` was {before} and is now {layout}"),
            None => format!("`{name}` was another {} and is now {layout}", before.operator),
        })
    });
    let told: Vec<String> = gone.chain(others).collect();
    if !told.is_empty() {
        return told.join("; ");
    }
    let list = |sections: &[Section]| {
        sections.iter().map(|section| format!("`{}`", section.name)).collect::<Vec<_>>().join(", ")
    };
    format!("its order is {} and is now {}", list(found), list(wanted))
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
