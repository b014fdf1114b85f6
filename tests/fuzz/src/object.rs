//! What the bucket of snapshots holds, whoever put it there: damaged, or exactly what was written; and nothing is reserved
//! because a head or a manifest claims it.

use std::cell::Cell;

use pelton_broker::testing::foreign::{Chunk, Head, check_manifest, encode_head, head, listed, read};
use pelton_engine::epoch::{Manifest, PART_BYTES_MAX, sha256};

use crate::bytes::Bytes;

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Bytes::new(bytes);
    match script.byte() {
        b'h' => check_a_head(&script.rest()),
        b'l' => list(&script.rest()),
        b'm' => manifest(&mut script),
        _ => parts(&mut script),
    }
}

fn check_a_head(payload: &[u8]) {
    let found = match head(payload) {
        Ok(found) => found,
        Err(reason) => return assert!(!reason.is_empty()),
    };
    // It becomes a token of subjects that are purged.
    assert!(!found.id.is_empty() && !found.id.contains(['.', '*', '>', ' ', '\t', '\r', '\n']), "{found:?}");
    let written = encode_head("0/1", &found).expect("numbers that were read can be written");
    assert_eq!(head(&written), Ok(found), "a head comes back");
}

fn manifest(script: &mut Bytes) {
    let (bytes_max, is_there) = (u64::from(script.u32()), script.byte() == 0);
    let found = match Manifest::decode(&script.rest()) {
        Ok(found) => found,
        Err(reason) => return assert!(!reason.to_string().is_empty()),
    };
    assert_eq!(Manifest::decode(&found.encode()).as_ref(), Ok(&found), "a manifest comes back");
    // The engine takes the next part of the next section without looking whether there is one.
    assert!(!found.sections.is_empty() && found.sections.iter().all(|section| !section.parts.is_empty()), "{found:?}");
    assert!(found.parts().all(|part| (1..=PART_BYTES_MAX as u64).contains(&part.bytes)), "{found:?}");
    let objects: Vec<&str> = found.parts().map(|part| part.object.as_str()).filter(|_| is_there).collect();
    if check_manifest(&found, &objects, bytes_max).is_ok() {
        assert!(is_there && found.bytes() <= bytes_max, "{found:?}");
    }
}

fn list(answer: &[u8]) {
    let Ok(listed) = listed(answer) else { return };
    assert!(listed.objects.iter().all(|object| object.starts_with("0/")), "{listed:?}");
    // A plain reader refuses more: what lies in fields that nobody wants.
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(answer) else { return };
    let subjects = json["state"]["subjects"].as_object().map_or(0, serde_json::Map::len);
    assert!(listed.objects.len() + listed.chunks.len() <= subjects, "{listed:?}");
}

/// An object in its bucket, and what was done to it since.
struct Object {
    bytes: Vec<u8>,
    head: Head,
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
    let from = script.below(object.bytes.len().max(1)) as u64;
    while !script.is_empty() {
        damage(&mut object, script);
    }
    read_all(&object);
    // From the middle, as after a lost connection.
    if let Ok((bytes, _)) = object.read(from, None)
        && !object.is_changed
    {
        assert!(object.bytes[from as usize..].starts_with(&bytes), "from {from}: {bytes:?} of {:?}", object.bytes);
    }
}

fn object(script: &mut Bytes) -> Object {
    let (length, gap) = (1 + script.below(16), 1 + script.below(3) as u64);
    let (start, answer_max, bytes) = (script.below(3), 1 + script.below(4), script.short());
    let count = bytes.len().div_ceil(length) as u64;
    let start = [1, 900, u64::MAX - count.saturating_sub(1) * gap][start];
    let chunk = |(idx, payload): (usize, &[u8])| Chunk {
        sequence: start + idx as u64 * gap,
        offset: Some((idx * length).to_string()),
        payload: payload.to_vec(),
    };
    let chunks = bytes.chunks(length).enumerate().map(chunk).collect();
    let head = Head { id: "0-1-x".to_owned(), bytes: bytes.len() as u64, sha256: sha256(&bytes), chunks: count };
    Object { bytes, head, chunks, is_changed: false, is_damaged: false, answer_max }
}

fn damage(object: &mut Object, script: &mut Bytes) {
    let (what, at, other) = (script.below(7), script.below(object.chunks.len()), script.below(object.chunks.len()));
    object.is_damaged = true;
    object.is_changed |= matches!(what, 1..=4);
    if what == 0 {
        object.head.bytes = script.i64().cast_unsigned() >> script.below(64);
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
    fn read(&self, offset: u64, sequence: Option<u64>) -> Result<(Vec<u8>, u64), String> {
        let asked = Cell::new(0);
        let ask = |from, count: usize| {
            asked.set(asked.get() + 1);
            assert!(asked.get() <= self.chunks.len() + 4, "{asked:?} questions for byte {offset}");
            let chunks = self.chunks.iter().filter(|chunk| chunk.sequence >= from);
            chunks.take(count.min(self.answer_max)).cloned().collect()
        };
        let (bytes, sequence) = read(ask, &self.head, offset, sequence)?;
        let stored: usize = self.chunks.iter().map(|chunk| chunk.payload.len()).sum();
        assert!(!bytes.is_empty() && bytes.len() <= stored, "{} bytes of {stored}", bytes.len());
        Ok((bytes, sequence))
    }
}

/// Answer by answer, as the engine does.
fn read_all(object: &Object) {
    let (mut bytes, mut sequence) = (Vec::new(), None);
    while (bytes.len() as u64) < object.head.bytes {
        match object.read(bytes.len() as u64, sequence) {
            Ok((more, next)) => {
                bytes.extend(more);
                sequence = Some(next);
            }
            Err(reason) => return assert!(object.is_damaged && !reason.is_empty(), "{reason}"),
        }
    }
    assert_eq!(bytes.len() as u64, object.head.bytes, "no more than the head claims");
    let is_proven = sha256(&bytes) == object.head.sha256;
    assert!(is_proven || object.is_damaged);
    if is_proven {
        assert_eq!(bytes, object.bytes);
    } else if !object.is_changed {
        // The head claims too little, and the last answer ends with a chunk.
        assert!(object.bytes.starts_with(&bytes), "{bytes:?} of {:?}", object.bytes);
    }
}
