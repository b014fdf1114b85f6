//! The manifest of a snapshot: which parts hold the state of a partition at the end of an epoch, section by section.
//!
//! The bytes of a section are those of its whole part of a delta, cut into parts; each part is an object of its own. A
//! part may be older than the manifest that names it: where the bytes are the same, they are not stored again.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::hexed::{digest, hex64};
use super::layout_of;
use super::marker::Marker;
use super::versioned::{self, Unreadable, Version};

/// Format of manifests that this host writes, and the only one that it reads.
const MANIFEST_VERSION: u8 = 3;
/// Largest manifest, bytes: it names more parts than any state in memory has.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;
/// Largest part, bytes: what is read in vain when a part turns out to be damaged, and stored again when a byte changes.
pub const PART_BYTES_MAX: usize = 8 << 20;

/// One stored piece of a section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// Name of the object in the bucket.
    pub object: String,
    #[serde(with = "digest")]
    pub sha256: [u8; 32],
    /// From 1 to [`PART_BYTES_MAX`].
    pub bytes: u64,
}

/// One section of the state, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSection {
    pub name: String,
    pub operator: String,
    #[serde(with = "hex64")]
    pub layout: u64,
    /// What `layout` stands for: a host that has another one can tell what differs, without the module of that time.
    pub layout_text: String,
    /// In the order of the bytes; at least one.
    pub parts: Vec<SnapshotPart>,
}

/// A whole state: the marker of its epoch, and the sections of that marker in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub marker: Marker,
    /// Where the pipeline stream held the marker when the snapshot was taken.
    pub sequence: u64,
    pub sections: Vec<SnapshotSection>,
}

#[derive(Serialize, Deserialize)]
struct Stored<'a, S> {
    version: Version<MANIFEST_VERSION>,
    needs: Vec<String>,
    /// Byte by byte as the stream holds it: the next marker has its hash.
    #[serde(borrow)]
    marker: &'a RawValue,
    marker_sequence: u64,
    sections: S,
}

impl Manifest {
    /// JSON, for the bucket and for people.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            version: Version,
            needs: Vec::new(),
            marker: serde_json::from_slice(self.marker.bytes()).expect("a marker is JSON"),
            marker_sequence: self.sequence,
            sections: self.sections.as_slice(),
        };
        serde_json::to_vec(&stored).expect("a manifest holds only numbers, strings and lists")
    }

    /// Reads a manifest as it is stored. Unknown fields are passed over, unless `needs` names them.
    ///
    /// # Errors
    /// When the bytes are not a manifest of the format of this host, need what it does not know, or contradict
    /// themselves.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, Unreadable> {
        versioned::check(bytes, "manifest", MANIFEST_VERSION)?;
        let stored: Stored<'_, Vec<SnapshotSection>> =
            serde_json::from_slice(bytes).map_err(|error| Unreadable::damaged("manifest", &error))?;
        let marker = Marker::decode(stored.marker.get().as_bytes())?;
        let manifest = Manifest { marker, sequence: stored.marker_sequence, sections: stored.sections };
        manifest.check().map_err(Unreadable::Damaged)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let of_marker = self.marker.sections.iter().map(|section| (&section.name, &section.operator, section.layout));
        let sections = self.sections.iter().map(|section| (&section.name, &section.operator, section.layout));
        if self.sections.is_empty() || !sections.eq(of_marker) {
            return Err("the sections of the manifest are not those of its marker".into());
        }
        for section in &self.sections {
            let name = &section.name;
            if layout_of(&section.layout_text) != section.layout {
                return Err(format!("the layout of section `{name}` is not what its text says"));
            }
            if section.parts.is_empty() {
                return Err(format!("section `{name}` has no parts"));
            }
            if let Some(part) = section.parts.iter().find(|part| !(1..=PART_BYTES_MAX as u64).contains(&part.bytes)) {
                return Err(format!("part `{}` claims {} bytes", part.object, part.bytes));
            }
        }
        Ok(())
    }

    /// Every part, in the order of the bytes.
    pub fn parts(&self) -> impl Iterator<Item = &SnapshotPart> {
        self.sections.iter().flat_map(|section| &section.parts)
    }

    /// Length of the whole state.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts().map(|part| part.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{MarkerFields, Section};
    use super::*;

    fn part(object: &str, bytes: u64) -> SnapshotPart {
        SnapshotPart { object: object.into(), sha256: [7; 32], bytes }
    }

    fn manifest() -> Manifest {
        let names = ["core", "farm"];
        let of_marker = |name: &str| Section {
            name: name.into(),
            operator: "reducer".into(),
            layout: layout_of(name),
            epoch: 1,
            bytes: 0,
        };
        let marker =
            Marker::new(MarkerFields { epoch: 5, sections: names.map(of_marker).into(), ..Default::default() });
        let parts = [vec![part("0/5/0", 41)], vec![part("0/3/1", PART_BYTES_MAX as u64), part("0/5/1", 1)]];
        let section = |(name, parts): (&str, _)| SnapshotSection {
            name: name.into(),
            operator: "reducer".into(),
            layout: layout_of(name),
            layout_text: name.into(),
            parts,
        };
        Manifest { marker, sequence: 17, sections: names.into_iter().zip(parts).map(section).collect() }
    }

    /// What a reader says to a manifest in which something has another value, or none.
    fn changed(pointer: &str, value: Option<Value>) -> Result<Manifest, Unreadable> {
        let mut json: Value = serde_json::from_slice(&manifest().encode()).unwrap();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let parent = json.pointer_mut(parent).unwrap();
        match (parent, value) {
            (Value::Object(fields), Some(value)) => drop(fields.insert(last.into(), value)),
            (Value::Object(fields), None) => drop(fields.remove(last)),
            (Value::Array(list), Some(value)) => list.insert(last.parse().unwrap(), value),
            (Value::Array(list), None) => drop(list.remove(last.parse().unwrap())),
            other => panic!("{other:?}"),
        }
        Manifest::decode(json.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_is_stored_so() {
        let manifest = manifest();
        let text = String::from_utf8(manifest.encode()).unwrap();
        let sha256 = "07".repeat(32);
        let part = |object: &str, bytes: u64| format!(r#"{{"object":"{object}","sha256":"{sha256}","bytes":{bytes}}}"#);
        let section = |name: &str, parts: String| {
            let layout = layout_of(name);
            format!(
                r#"{{"name":"{name}","operator":"reducer","layout":"{layout:016x}","layout_text":"{name}","parts":[{parts}]}}"#
            )
        };
        let expected = format!(
            r#"{{"version":3,"needs":[],"marker":{},"marker_sequence":17,"sections":[{},{}]}}"#,
            std::str::from_utf8(manifest.marker.bytes()).unwrap(),
            section("core", part("0/5/0", 41)),
            section("farm", format!("{},{}", part("0/3/1", 8_388_608), part("0/5/1", 1))),
        );
        assert_eq!(text, expected);
        assert_eq!(Manifest::decode(text.as_bytes()), Ok(manifest.clone()));
        assert_eq!(manifest.bytes(), 8_388_608 + 42);
        assert_eq!(manifest.parts().map(|part| part.object.as_str()).collect::<Vec<_>>(), ["0/5/0", "0/3/1", "0/5/1"]);
    }

    #[test]
    fn a_manifest_of_another_format_is_told_from_damage() {
        let said = |pointer: &str, value: Value| match changed(pointer, Some(value)) {
            Err(Unreadable::Format(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(said("/version", json!(2)), "manifest format 2 is from before the first release of Pelton");
        assert_eq!(said("/version", json!(4)), "a newer version of Pelton wrote manifest format 4");
        assert_eq!(said("/needs", json!(["tables"])), "a newer version of Pelton wrote a manifest that needs `tables`");
        // Its marker is of one, too.
        assert_eq!(
            said("/marker/needs", json!(["lanes"])),
            "a newer version of Pelton wrote a marker that needs `lanes`"
        );
    }

    #[test]
    fn what_is_not_known_and_not_needed_is_passed_over() {
        for pointer in ["/tables", "/sections/0/module", "/sections/1/parts/0/stored"] {
            let read = changed(pointer, Some(json!([1]))).unwrap();
            assert_eq!((&read.sections, &*read.marker), (&manifest().sections, &*manifest().marker), "{pointer}");
        }
        // Of the marker it is kept: the next one has the hash of all its bytes.
        let read = changed("/marker/lanes", Some(json!([1]))).unwrap();
        assert_eq!((&read.sections, &*read.marker), (&manifest().sections, &*manifest().marker));
        assert!(std::str::from_utf8(read.marker.bytes()).unwrap().contains(r#""lanes":[1]"#));
        assert_eq!(Manifest::decode(&read.encode()), Ok(read));
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        let farm = || serde_json::to_value(&manifest().sections[1]).unwrap();
        for (pointer, value, said) in [
            ("/sections/1", None, "not those of its marker"),
            ("/sections/2", Some(farm()), "not those of its marker"),
            ("/sections/0", Some(farm()), "not those of its marker"),
            ("/marker/sections/1", None, "not those of its marker"),
            ("/sections/1/name", Some(json!("barn")), "not those of its marker"),
            ("/sections/1/operator", Some(json!("barn")), "not those of its marker"),
            ("/sections/1/layout", Some(json!("0000000000000001")), "not those of its marker"),
            ("/sections/1/layout_text", Some(json!("barn")), "layout of section `farm`"),
            ("/sections/1/parts", Some(json!([])), "`farm` has no parts"),
            ("/sections/1/parts/1/bytes", Some(json!(0)), "`0/5/1` claims 0 bytes"),
            ("/sections/1/parts/0/bytes", Some(json!(8_388_609)), "`0/3/1` claims 8388609 bytes"),
            ("/sections/1/parts/0/bytes", Some(json!(u64::MAX)), "claims 18446744073709551615 bytes"),
            ("/sections/1/parts/0/bytes", Some(json!(-1)), "does not decode"),
            ("/sections/1/parts/0/sha256", Some(json!("07")), "64 hex digits"),
            ("/sections/1/parts/0/object", None, "missing field `object`"),
            ("/marker_sequence", None, "missing field `marker_sequence`"),
            ("/marker", None, "missing field `marker`"),
            ("/marker/epoch", Some(json!("x")), "marker does not decode"),
        ] {
            match changed(pointer, value) {
                Err(Unreadable::Damaged(text)) => assert!(text.contains(said), "{pointer}: {text}"),
                other => panic!("{pointer}: {other:?}"),
            }
        }
        let text = manifest().encode();
        for length in 0..text.len() {
            assert!(matches!(Manifest::decode(&text[..length]), Err(Unreadable::Damaged(_))), "{length}");
        }
    }

    #[test]
    fn a_state_without_sections_is_none() {
        let marker = Marker::new(MarkerFields { epoch: 5, ..Default::default() });
        let manifest = Manifest { marker, sequence: 17, sections: Vec::new() };
        assert!(Manifest::decode(&manifest.encode()).is_err());
    }
}
