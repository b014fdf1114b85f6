//! Every scripted case, without a weakness: `sim cases NAME` runs those of that name.

use pelton_sim::scripted::CASES;
use pelton_sim::world::Weakness;

#[test]
fn scripted_cases_hold() {
    let broken: Vec<String> = CASES
        .iter()
        .filter_map(|(name, case)| {
            pelton_sim::runner::scripted(case, &Weakness::default()).err().map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(broken.is_empty(), "{} of {} cases are broken:\n{}", broken.len(), CASES.len(), broken.join("\n"));
}
