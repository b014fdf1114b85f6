//! What the bucket of snapshots holds, whoever put it there: damaged, or exactly what was written; and nothing is reserved
//! because a head claims it.

use std::cell::Cell;
use std::collections::BTreeMap;

use pelton_broker::testing::foreign::{Chunk, Listed, Parts, check_head, encode_head, head, listed};
use pelton_engine::epoch::Marker;
use pelton_engine::log::{FoundSnapshot, StoredMarker};
use sha2::{Digest as _, Sha256};

use crate::bytes::Bytes;

/// A marker as every host writes it.
const MARKER: &[u8] = include_bytes!("../corpus/stored/marker");

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    match script.byte() {
        b'h' => check_a_head(&mut script),
        b'l' => list(&script.rest()),
        _ => parts(&mut script),
    }
}

fn check_a_head(script: &mut Bytes) {
    let epoch = u64::from(script.byte());
    let (there, bytes, bytes_max) = (script.byte(), script.u32(), script.u32());
    let (found, chunks) = match head(&script.rest(), epoch) {
        Ok(said) => said,
        Err(reason) => return assert!(!reason.is_empty()),
    };
    assert_eq!(found.stored.marker.epoch, epoch);
    // It becomes a token of subjects that are purged.
    assert!(!found.object.is_empty() && !found.object.contains(['.', '*', '>', ' ', '\t', '\r', '\n']), "{found:?}");
    let written = encode_head(&found, chunks).expect("numbers that were read can be written");
    assert_eq!(head(&written, epoch), Ok((found.clone(), chunks)), "a head comes back");
    let listed = Listed {
        chunks: BTreeMap::from([(found.object.clone(), u64::from(there))]),
        bytes: u64::from(bytes),
        ..Listed::default()
    };
    if let Ok(found) = check_head(found, chunks, &listed, u64::from(bytes_max)) {
        assert!(
            found.bytes <= u64::from(bytes.min(bytes_max)) && chunks == u64::from(there),
            "{found:?} of {listed:?}"
        );
    }
}

fn list(answer: &[u8]) {
    let Ok(listed) = listed(answer) else { return };
    assert!(listed.heads.is_sorted(), "{listed:?}");
    assert!(listed.heads.iter().all(|(_, subject)| subject.starts_with("$O.b.M.")), "{listed:?}");
    // A plain reader refuses more: what lies in fields that nobody wants.
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(answer) else { return };
    let subjects = json["state"]["subjects"].as_object().map_or(0, serde_json::Map::len);
    assert!(listed.heads.len() + listed.chunks.len() <= subjects, "{listed:?}");
}

/// An object in its bucket, and what was done to it since.
struct Object {
    state: Vec<u8>,
    found: FoundSnapshot,
    /// In the order of their sequences.
    chunks: Vec<Chunk>,
    /// A chunk says something that was not written; only the sha256 can tell.
    is_changed: bool,
    is_damaged: bool,
    /// Chunks of one answer at most.
    answer_max: usize,
}

fn parts(script: &mut Bytes) {
    let mut object = object(script);
    let from = script.below(object.state.len().max(1)) as u64;
    while !script.is_empty() {
        damage(&mut object, script);
    }
    read_all(&object);
    // From the middle, as after a lost connection.
    if let Ok(part) = object.read(&Parts::default(), from)
        && !object.is_changed
    {
        assert!(object.state[from as usize..].starts_with(&part), "from {from}: {part:?} of {:?}", object.state);
    }
}

fn object(script: &mut Bytes) -> Object {
    let (length, gap) = (1 + script.below(16), 1 + script.below(3) as u64);
    let (start, answer_max, state) = (script.below(3), 1 + script.below(4), script.short());
    let count = state.len().div_ceil(length) as u64;
    let start = [1, 900, u64::MAX - count.saturating_sub(1) * gap][start];
    let chunk = |(idx, payload): (usize, &[u8])| Chunk {
        sequence: start + idx as u64 * gap,
        offset: Some((idx * length).to_string()),
        payload: payload.to_vec(),
    };
    let chunks = state.chunks(length).enumerate().map(chunk).collect();
    let found = FoundSnapshot {
        stored: StoredMarker { sequence: 1, marker: Marker::decode(&MARKER[1..]).expect("a marker") },
        bytes: state.len() as u64,
        digest: Sha256::digest(&state).into(),
        object: "0-1-x".to_owned(),
    };
    Object { state, found, chunks, is_changed: false, is_damaged: false, answer_max }
}

fn damage(object: &mut Object, script: &mut Bytes) {
    let (what, at, other) = (script.below(7), script.below(object.chunks.len()), script.below(object.chunks.len()));
    object.is_damaged = true;
    object.is_changed |= matches!(what, 1..=4);
    if what == 0 {
        object.found.bytes = script.i64().cast_unsigned() >> script.below(64);
    }
    let Some(copy) = object.chunks.get(other).cloned() else { return };
    let chunk = &mut object.chunks[at];
    match what {
        1 => chunk.offset = String::from_utf8(script.short()).ok(),
        2 => chunk.offset = Some((script.i64().cast_unsigned() >> script.below(64)).to_string()),
        3 => chunk.payload = script.short(),
        4 => chunk.payload.iter_mut().for_each(|byte| *byte ^= 1),
        5 => drop(object.chunks.remove(at)),
        // The same chunk once more, in the place of another one or behind all.
        6 => *chunk = Chunk { sequence: chunk.sequence, ..copy },
        _ => {}
    }
}

impl Object {
    fn read(&self, parts: &Parts, offset: u64) -> Result<Vec<u8>, String> {
        let asked = Cell::new(0);
        let ask = |from, count: usize| {
            asked.set(asked.get() + 1);
            assert!(asked.get() <= self.chunks.len() + 4, "{asked:?} questions for byte {offset}");
            let chunks = self.chunks.iter().filter(|chunk| chunk.sequence >= from);
            chunks.take(count.min(self.answer_max)).cloned().collect()
        };
        let part = parts.read(ask, &self.found, offset)?;
        let stored: usize = self.chunks.iter().map(|chunk| chunk.payload.len()).sum();
        assert!(!part.is_empty() && part.len() <= stored, "{} bytes of {stored}", part.len());
        Ok(part)
    }
}

/// Part by part, as the engine does.
fn read_all(object: &Object) {
    let (parts, mut bytes) = (Parts::default(), Vec::new());
    while (bytes.len() as u64) < object.found.bytes {
        match object.read(&parts, bytes.len() as u64) {
            Ok(part) => bytes.extend(part),
            Err(reason) => return assert!(object.is_damaged && !reason.is_empty(), "{reason}"),
        }
    }
    assert_eq!(bytes.len() as u64, object.found.bytes, "no more than the head claims");
    let is_proven = Sha256::digest(&bytes)[..] == object.found.digest;
    assert!(is_proven || object.is_damaged);
    if is_proven {
        assert_eq!(bytes, object.state);
    } else if !object.is_changed {
        // The head claims too little, and the last part ends with a chunk.
        assert!(object.state.starts_with(&bytes), "{bytes:?} of {:?}", object.state);
    }
}
