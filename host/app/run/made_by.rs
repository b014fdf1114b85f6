//! What the results of a file run depend on besides its input, so that a run is not resumed with something else.
//!
//! Comments, white space and the order of keys do not count, nor does what changes no result: where modules lie, the
//! streams and subjects, and the limits that only stop a run or cut its epochs.

use std::collections::BTreeMap;
use std::fmt::Debug;

use pelton_engine::epoch::fingerprint;
use pelton_engine::plan::{Limits, Output, Plan, Source, Stage};
use serde::{Deserialize, Serialize};

/// A fingerprint per part of the pipeline, by the part's name as the pipeline file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeBy(BTreeMap<String, u64>);

impl MadeBy {
    /// `modules` are the sha256 of the stages' modules, `envelope` the form of the results, `clock` a fingerprint of what
    /// comes from a ledger.
    pub(super) fn of(plan: &Plan, modules: &[[u8; 32]], envelope: bool, clock: Option<u64>) -> MadeBy {
        let mut made = MadeBy::default();
        // All parts are named here, so that a new one cannot be forgotten.
        let Plan { name, source, stages, outputs, limits } = plan;
        let Source { key, time, watermark, order, dedupe, fields, stream: _, subject: _, partitions: _, create: _ } =
            source;
        made.put("name", name);
        made.put("[source] key", key);
        made.put("[source] time", time);
        made.put("[source] watermark", watermark);
        made.put("[source] order", order);
        made.put("[source] dedupe", dedupe);
        made.put("[source.fields]", fields);
        let Limits {
            fuel_per_event,
            memory,
            reply_bytes,
            max_payload,
            state_per_key,
            call_timeout: _,
            state: _,
            epoch_max_events: _,
            epoch_max_age: _,
            shape: _,
        } = limits;
        made.put("[limits] fuel_per_event", fuel_per_event);
        made.put("[limits] memory", memory);
        made.put("[limits] reply_bytes", reply_bytes);
        made.put("[limits] max_payload", max_payload);
        made.put("[limits] state_per_key", state_per_key);
        let tree: Vec<(&str, Option<usize>)> = stages.iter().map(|stage| (stage.name.as_str(), stage.from)).collect();
        made.put("the tree of stages", &tree);
        for (stage, digest) in stages.iter().zip(modules) {
            let Stage { name, from: _, module: _, config, window, ttl } = stage;
            made.put(&format!("module of stage `{name}`"), digest);
            made.put(&format!("config of stage `{name}`"), config);
            made.put(&format!("window of stage `{name}`"), window);
            made.put(&format!("ttl of stage `{name}`"), ttl);
        }
        for Output { name, stage, port, stream: _ } in outputs {
            made.put(&format!("[output.{name}]"), &(stage, port));
        }
        made.put("--envelope", &envelope);
        made.put("--clock", &clock);
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
        MadeBy::of(
            &plan.unwrap_or_else(|| panic!("{problems:?}")),
            &[[module; 32]].repeat(descriptors.len()),
            envelope,
            None,
        )
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
            ("[[stage]]", "order = \"event-time\"\n[[stage]]", "[source] order"),
            ("[[stage]]", "order = \"arrival\"\n[[stage]]", ""),
            ("[[stage]]", "dedupe = { id = \"id\", ttl = \"1d\" }\n[[stage]]", "[source] dedupe"),
            ("limit = 1 }", "limit = 1 }\nfrom = \"source\"", ""),
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
        let stage =
            |name: &str, from: &str| format!("[[stage]]\nname = \"{name}\"\nfrom = \"{from}\"\nmodule = \"s.wasm\"\n");
        let tree = |t: &str, u: &str| {
            let stages = [stage("other", "source"), stage("t", t), stage("u", u)].concat();
            made(&TEXT.replace("[output.seen]", &format!("{stages}[output.seen]\n[output.t]\nfrom = \"t\"")), 1, false)
        };
        assert_eq!(tree("s", "other").changes(&tree("other", "s")), ["the tree of stages"]);
        assert_eq!(old.changes(&made(TEXT, 2, false)), ["module of stage `s`"]);
        assert_eq!(old.changes(&made(TEXT, 1, true)), ["--envelope"]);
    }
}
