//! A rule is tried with a window in which nothing was seen, before any event is read.

use std::sync::{Arc, Mutex};

use pelton_engine::event::{Field, Kind, Need};
use pelton_engine::guest::*;
use pelton_engine::plan::FieldRead;
use pelton_engine::step::{Trial, try_rule};

use crate::kit::{Native, at_least};

fn aggregate(name: &str, function: Function, field: Option<&str>) -> Aggregate {
    Aggregate { name: name.into(), function, field: field.map(str::to_owned), limit: 3 }
}

fn fields() -> Vec<FieldRead> {
    let field = |name: &str, kind| FieldRead {
        name: name.into(),
        pointer: vec![name.into()],
        kind,
        need: Need::Required,
        stage: 0,
    };
    vec![field("i", Kind::Integer), field("n", Kind::Number), field("s", Kind::String)]
}

/// Every function over every kind that it takes, and a threshold on the count.
fn plan() -> Aggregation {
    Aggregation {
        aggregates: vec![
            aggregate("count", Function::Count, None),
            aggregate("sum", Function::Sum, Some("i")),
            aggregate("smallest", Function::Min, Some("n")),
            aggregate("largest", Function::Max, Some("derived")),
            aggregate("different", Function::Distinct, Some("s")),
            aggregate("top", Function::TopK, Some("s")),
        ],
        derived: vec![Field { name: "derived".into(), kind: Kind::Number, need: Need::Required }],
        thresholds: vec![vec![at_least(0, 5), at_least(0, 100)]],
        filters: false,
    }
}

fn rule(plan: Aggregation, evaluate: impl Fn(&Panes) -> Result<(), Fault> + Send + Sync + 'static) -> Native {
    let mut guest = Native::new(World::WindowRule, &[("i", Kind::Integer, true)]);
    guest.plan = plan;
    guest.evaluate = Some(Arc::new(move |panes, _, _| evaluate(panes)));
    guest
}

#[test]
fn the_pane_has_all_aggregates_empty_but_what_the_thresholds_promise() {
    let seen = Arc::new(Mutex::new(Panes::default()));
    let keep = seen.clone();
    let mut guest = rule(plan(), move |panes| {
        *keep.lock().unwrap() = panes.clone();
        Ok(())
    });
    assert_eq!(try_rule(&mut guest, &fields()), Ok(()));
    let panes = seen.lock().unwrap().clone();
    assert_eq!((panes.len(), panes.keys.get(0), panes.values.len()), (1, &b"key"[..], 6));
    let of = |idx: usize| panes.values[idx].clone();
    let nothing = |data| AggregateColumn { missing: vec![0], clipped: Vec::new(), data };
    assert_eq!(of(0), AggregateColumn::new(AggregateData::Integers(vec![100])), "a rule may divide by it");
    assert_eq!(of(1), nothing(AggregateData::Integers(vec![0])));
    assert_eq!(of(2), nothing(AggregateData::Numbers(vec![0.0])));
    assert_eq!(of(3), nothing(AggregateData::Numbers(vec![0.0])));
    assert_eq!(of(4), AggregateColumn::new(AggregateData::Integers(vec![0])));
    assert!(matches!(of(5).data, AggregateData::Tops { pane_ends, .. } if pane_ends == [0]));
}

#[test]
fn only_what_cannot_be_right_is_wrong() {
    let traps = |text: &'static str| rule(plan(), move |_| Err(Fault::Trap(text.to_owned())));
    // The words of the SDK, and those of a rule that divides by a count.
    let absent = "wasm trap: unreachable: panicked at pane.rs:1:1: no aggregate `plays`, the rule has [\"count\"]";
    assert_eq!(try_rule(&mut traps(absent), &fields()), Err(Trial::Wrong(absent.to_owned())));
    let other = "wasm trap: unreachable: panicked at pane.rs:1:1: aggregate `count` is not a number: use `count`, `integer` or `top`";
    assert_eq!(try_rule(&mut traps(other), &fields()), Err(Trial::Wrong(other.to_owned())));
    let divides = "wasm trap: unreachable: attempt to divide by zero";
    assert_eq!(try_rule(&mut traps(divides), &fields()), Err(Trial::Doubtful(divides.to_owned())));
    let mut halts = rule(plan(), |_| Err(Fault::Halt("nothing here".to_owned())));
    assert_eq!(try_rule(&mut halts, &fields()), Err(Trial::Doubtful("nothing here".to_owned())));
}

#[test]
fn a_plan_that_does_not_hold_together_is_wrong() {
    for (aggregates, thresholds, expected) in [
        (vec![aggregate("x", Function::Sum, Some("none"))], vec![], "neither declared nor derived"),
        (vec![aggregate("x", Function::Sum, Some("s"))], vec![], "needs an integer or number field"),
        (vec![aggregate("x", Function::Count, None)], vec![vec![at_least(1, 1)]], "threshold on aggregate 1"),
    ] {
        let mut guest = rule(Aggregation { aggregates, thresholds, ..Aggregation::default() }, |_| Ok(()));
        let Err(Trial::Wrong(said)) = try_rule(&mut guest, &fields()) else { panic!("taken: {expected}") };
        assert!(said.contains(expected), "{said}");
    }
    let mut nothing = rule(Aggregation::default(), |_| Ok(()));
    assert_eq!(try_rule(&mut nothing, &[]), Ok(()));
}
