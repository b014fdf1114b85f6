//! Which fields the decoder reads for the stages, and where in an event they are.

use super::raw::pointer_parse;
use super::{FieldRead, Plan, Source};
use crate::event::Need;
use crate::guest::Descriptor;

impl Plan {
    /// The declared fields of all stages, each once, in the order in which stages first declare them.
    ///
    /// A field is required as soon as one stage requires it; what a stage reads leniently stays a read of its own. `descriptors` has one entry per stage.
    #[must_use]
    pub fn reads(&self, descriptors: &[Descriptor]) -> Vec<FieldRead> {
        reads(&self.source, descriptors)
    }
}

pub(super) fn reads(source: &Source, descriptors: &[Descriptor]) -> Vec<FieldRead> {
    let mut reads: Vec<FieldRead> = Vec::new();
    for (stage, descriptor) in descriptors.iter().enumerate() {
        for field in &descriptor.shape.fields {
            match reads.iter_mut().find(|read| read.is_for(field)) {
                Some(read) => read.need = read.need.min(field.need),
                None => reads.push(FieldRead {
                    name: field.name.clone(),
                    pointer: pointer(source, &field.name),
                    kind: field.kind,
                    need: field.need,
                    stage,
                }),
            }
        }
    }
    reads
}

/// The read of a declared field, by its name; what other stages read of it leniently is another one.
pub(crate) fn declared(fields: &[FieldRead], name: &str) -> Option<usize> {
    let position = |is_lenient: bool| {
        fields.iter().position(|read| read.name == name && (read.need == Need::Lenient) == is_lenient)
    };
    position(false).or_else(|| position(true))
}

/// Where a field is: a pointer is its place itself, any other name is where `[source.fields]` puts it.
fn pointer(source: &Source, name: &str) -> Vec<String> {
    if name.starts_with('/') {
        return pointer_parse(name).unwrap_or_default();
    }
    match source.fields.iter().find(|(mapped, _)| mapped == name) {
        Some((_, pointer)) => pointer.clone(),
        None => vec![name.to_owned()],
    }
}
