//! What the results of a file run depend on besides its input, so that a run is not resumed with something else.
//!
//! Comments, white space and the order of keys do not count, nor does what changes no result: where modules lie, the
//! streams and subjects, and the limits that only stop a run or cut its epochs.

use std::collections::BTreeMap;
use std::fmt::Debug;

use pelton_engine::epoch::fingerprint;
use pelton_engine::plan::Plan;
use serde::{Deserialize, Serialize};

/// A fingerprint per part of the pipeline, by the part's name as the pipeline file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeBy(BTreeMap<String, u64>);

impl MadeBy {
    /// `modules` are the sha256 of the stages' modules, `envelope` the form of the results.
    pub(super) fn of(plan: &Plan, modules: &[[u8; 32]], envelope: bool) -> MadeBy {
        let mut made = MadeBy::default();
        let (source, limits) = (&plan.source, &plan.limits);
        made.put("name", &plan.name);
        made.put("[source] key", &source.key);
        made.put("[source] time", &source.time);
        made.put("[source] watermark", &source.watermark);
        made.put("[source.fields]", &source.fields);
        made.put("[limits] fuel_per_event", &limits.fuel_per_event);
        made.put("[limits] memory", &limits.memory);
        made.put("[limits] reply_bytes", &limits.reply_bytes);
        made.put("[limits] max_payload", &limits.max_payload);
        made.put("[limits] state_per_key", &limits.state_per_key);
        let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        made.put("the list of stages", &names);
        for (stage, module) in plan.stages.iter().zip(modules) {
            made.put(&format!("module of stage `{}`", stage.name), module);
            made.put(&format!("config of stage `{}`", stage.name), &stage.config);
            made.put(&format!("window of stage `{}`", stage.name), &stage.window);
        }
        for output in &plan.outputs {
            made.put(&format!("[output.{}]", output.name), &(output.stage, output.port));
        }
        made.put("--envelope", &envelope);
        made
    }

    fn put(&mut self, part: &str, value: &impl Debug) {
        self.0.insert(part.to_owned(), fingerprint(0, format!("{value:?}").as_bytes()));
    }

    /// Names of the parts in which they differ, those of either.
    pub(super) fn changes(&self, now: &MadeBy) -> Vec<String> {
        let parts: std::collections::BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        parts.into_iter().filter(|part| self.0.get(*part) != now.0.get(*part)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use pelton_engine::guest::{Descriptor, Identity, Shape, World};
    use pelton_engine::plan;

    use super::*;

    const TEXT: &str = r#"
        name = "p"
        [source]
        stream = "IN"
        subject = "in"
        key = "user"
        time = { field = "ts", unit = "ms" }
        [[stage]]
        name = "s"
        module = "s.wasm"
        config = { limit = 1 }
        [output.seen]
    "#;

    fn made(text: &str, module: u8, envelope: bool) -> MadeBy {
        let (draft, problems) = plan::parse(text);
        let draft = draft.unwrap_or_else(|| panic!("{problems:?}"));
        let descriptors: Vec<Descriptor> = draft.stages().iter().map(|_| descriptor()).collect();
        let (plan, problems) = draft.bind(&descriptors);
        MadeBy::of(&plan.unwrap_or_else(|| panic!("{problems:?}")), &[[module; 32]], envelope)
    }

    fn descriptor() -> Descriptor {
        let identity = Identity::new(World::Transform, "s", "1");
        let shape = Shape { payload: true, ports: vec!["main".into()], ..Shape::default() };
        Descriptor { identity, shape }
    }

    #[test]
    fn what_changes_results_is_named_and_nothing_else() {
        let old = made(TEXT, 1, false);
        for (from, to, expected) in [
            ("\"p\"", "\"q\"", "name"),
            ("\"user\"", "\"/user\"", ""),
            ("\"user\"", "\"account\"", "[source] key"),
            ("\"ms\"", "\"s\"", "[source] time"),
            ("[[stage]]", "watermark = { delay = \"11s\" }\n[[stage]]", "[source] watermark"),
            ("[[stage]]", "watermark = { delay = \"10s\" }\n[[stage]]", ""),
            ("limit = 1", "limit = 2", "config of stage `s`"),
            ("limit = 1", "limit  =  1", ""),
            ("s.wasm", "elsewhere/s.wasm", ""),
            ("\"in\"", "\"other\"", ""),
            ("[output.seen]", "# seen\n[output.seen]\nsubject = \"seen\"", ""),
            ("[output.seen]", "[output.found]", "[output.found], [output.seen]"),
            ("[output.seen]", "[output.seen]\n[limits]\nmax_payload = \"2MiB\"", "[limits] max_payload"),
            ("[output.seen]", "[output.seen]\n[limits]\nstate = \"8GiB\"\nepoch_max_events = 5", ""),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let now = made(&TEXT.replace(from, to), 1, false);
            assert_eq!(old.changes(&now).join(", "), expected, "{from} → {to}");
        }
        assert_eq!(old.changes(&made(TEXT, 2, false)), ["module of stage `s`"]);
        assert_eq!(old.changes(&made(TEXT, 1, true)), ["--envelope"]);
    }
}
