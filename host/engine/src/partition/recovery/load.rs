//! A snapshot on its way into an engine: part by part, each checked before it is believed; section by section, so that the
//! bytes of no more than one are held beside what they become.

use super::super::Notice;
use super::super::config::Mutants;
use crate::epoch::{Manifest, SnapshotPart, sha256};
use crate::log::Request;
use crate::step::Engine;

/// What is read, and how far.
pub(super) struct Loading {
    pub(super) manifest: Box<Manifest>,
    /// Holds the sections before `section`.
    pub(super) engine: Box<Engine>,
    section: u8,
    /// Place of the part that is being read, in its section.
    part: usize,
    /// Of the section: parts that were checked, and from `start` on what was read of the part.
    bytes: Vec<u8>,
    start: usize,
    /// Of the whole state.
    read: u64,
}

impl Loading {
    /// Nothing is read yet; the engine is fresh, and its sections are those of the manifest.
    pub(super) fn new(manifest: Box<Manifest>, engine: Box<Engine>) -> Loading {
        Loading { manifest, engine, section: 0, part: 0, bytes: Vec::new(), start: 0, read: 0 }
    }

    fn parts(&self) -> &[SnapshotPart] {
        &self.manifest.sections[usize::from(self.section)].parts
    }

    /// What to ask for.
    pub(super) fn next(&self) -> Request {
        Request::ReadPart { part: self.parts()[self.part].clone(), offset: (self.bytes.len() - self.start) as u64 }
    }

    pub(super) fn progress(&self) -> Notice {
        Notice::Loading { bytes: self.read, of: self.manifest.bytes() }
    }

    /// Takes the answer. True when the engine holds the whole state.
    ///
    /// # Errors
    /// Why the snapshot cannot be used.
    pub(super) fn take(&mut self, bytes: &[u8], mutants: Mutants) -> Result<bool, String> {
        // Grows with what has come, whatever the manifest claims.
        self.bytes.extend_from_slice(bytes);
        self.read += bytes.len() as u64;
        let part = &self.parts()[self.part];
        let read = (self.bytes.len() - self.start) as u64;
        if read < part.bytes && !bytes.is_empty() {
            return Ok(false);
        }
        if read != part.bytes || (sha256(&self.bytes[self.start..]) != part.sha256 && !mutants.trust_snapshot) {
            let (object, expected) = (&part.object, part.bytes);
            return Err(format!("part `{object}`: {read} bytes of {expected} were read, or their hash is another"));
        }
        (self.start, self.part) = (self.bytes.len(), self.part + 1);
        if self.part < self.parts().len() {
            return Ok(false);
        }
        let section = if mutants.mix_sections { self.mixed() } else { self.section };
        let bytes = std::mem::take(&mut self.bytes);
        self.engine.restore_section(section, &bytes).map_err(|damaged| damaged.to_string())?;
        (self.section, self.part, self.start) = (self.section + 1, 0, 0);
        Ok(usize::from(self.section) == self.manifest.sections.len())
    }

    /// Mutant: another stage's section in the place of this one, where there are two of them.
    fn mixed(&self) -> u8 {
        let stages = self.manifest.sections.len() as u8 - 1;
        if self.section == 0 { 0 } else { 1 + self.section % stages }
    }
}
