//! Which fields the decoder reads for the stages, and where in an event they are.

use super::{FieldRead, Plan, Source};
use crate::guest::Descriptor;

impl Plan {
    /// The declared fields of all stages, each once, in the order in which stages first declare them.
    ///
    /// A field is required as soon as one stage requires it. `descriptors` has one entry per stage.
    #[must_use]
    pub fn reads(&self, descriptors: &[Descriptor]) -> Vec<FieldRead> {
        reads(&self.source, descriptors)
    }
}

pub(super) fn reads(source: &Source, descriptors: &[Descriptor]) -> Vec<FieldRead> {
    let mut reads: Vec<FieldRead> = Vec::new();
    for (stage, descriptor) in descriptors.iter().enumerate() {
        for field in &descriptor.shape.fields {
            match reads.iter_mut().find(|read| read.name == field.name) {
                Some(read) => read.required |= field.required,
                None => reads.push(FieldRead {
                    name: field.name.clone(),
                    pointer: pointer(source, &field.name),
                    kind: field.kind,
                    required: field.required,
                    stage,
                }),
            }
        }
    }
    reads
}

/// Where `[source.fields]` puts a field, else its own name.
fn pointer(source: &Source, name: &str) -> Vec<String> {
    match source.fields.iter().find(|(mapped, _)| mapped == name) {
        Some((_, pointer)) => pointer.clone(),
        None => vec![name.to_owned()],
    }
}
