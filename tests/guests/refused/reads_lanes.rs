//! Must be refused by a pipeline whose input has no lanes: it names one.

use pelton_sdk::raw;

fn process(events: &raw::Events) -> raw::Output {
    pelton_test_guests::forward((0..events.timestamps.len() as u32).collect())
}

fn shape() -> raw::Shape {
    raw::Shape { lanes: vec!["plays".to_owned()], ..pelton_test_guests::shape() }
}

pelton_test_guests::raw_transform!("reads-lanes", process, shape);
