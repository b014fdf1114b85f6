//! Modules for the host's tests: well-behaved ones that exercise a world, misbehaving ones with one behaviour each.
//!
//! Each is an example of this package, so that one command builds them all:
//! `cargo build --target wasm32-unknown-unknown --profile guest -p pelton-test-guests --examples`.
//! The misbehaving ones forward every event as it is, except those whose text field `act` is `misbehave`,
//! unless their first line says otherwise. Those in `refused` do not get as far as an event.
//!
//! This library is what they share.

use pelton_sdk::{Fields, raw};

/// What the misbehaving modules read.
#[derive(Fields)]
pub struct Act<'a> {
    /// `misbehave`, or anything else.
    pub act: Option<&'a str>,
}

/// The word that sets a misbehaving module off.
pub const MISBEHAVE: &str = "misbehave";

impl Act<'_> {
    /// Whether this event sets the module off.
    #[must_use]
    pub fn misbehaves(&self) -> bool {
        self.act == Some(MISBEHAVE)
    }
}

/// The identity of a module that speaks the contract by itself.
#[must_use]
pub fn identity(name: &str) -> raw::Identity {
    raw::Identity {
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state_version: 0,
        config_schema: None,
        attributes: Vec::new(),
    }
}

/// The shape of a module that reads no field and has one port.
#[must_use]
pub fn shape() -> raw::Shape {
    raw::Shape {
        fields: Vec::new(),
        lanes: Vec::new(),
        payload: false,
        headers: false,
        ports: vec!["out".to_owned()],
        counters: Vec::new(),
        attributes: Vec::new(),
    }
}

/// A reply that forwards these rows, in this order.
#[must_use]
pub fn forward(rows: Vec<u32>) -> raw::Output {
    let slices = [pelton_sdk::OF_ROW, 0, pelton_sdk::OF_ROW, 0].repeat(rows.len());
    raw::Output { rows, slices, ..raw::no_output() }
}

/// Exports a function over whole batches as a transform, without the SDK's care.
#[macro_export]
macro_rules! raw_transform {
    ($name:literal, $process:path) => {
        $crate::raw_transform!($name, $process, $crate::shape);
    };
    ($name:literal, $process:path, $shape:path) => {
        struct Module;

        impl pelton_sdk::raw::meta::Guest for Module {
            fn describe() -> pelton_sdk::raw::Identity {
                $crate::identity($name)
            }

            fn configure(_config: String) -> Result<pelton_sdk::raw::Shape, String> {
                Ok($shape())
            }
        }

        impl pelton_sdk::raw::transform::Guest for Module {
            fn process(input: pelton_sdk::raw::Events) -> Result<pelton_sdk::raw::Output, pelton_sdk::raw::Failure> {
                Ok($process(&input))
            }
        }

        // Natively nothing else calls it.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(pelton_sdk::raw::Events) -> Result<pelton_sdk::raw::Output, pelton_sdk::raw::Failure> =
            <Module as pelton_sdk::raw::transform::Guest>::process;

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the generated exports of the contract")]
        mod exports {
            use super::*;
            pelton_sdk::raw::meta::export_meta!(Module);
            pelton_sdk::raw::transform::export_transform!(Module);
        }
    };
}

/// Exports a function over one event as a transform that reads `act`.
#[macro_export]
macro_rules! transform {
    ($process:path) => {
        struct Rule;

        impl pelton_sdk::Module for Rule {
            type Fields = $crate::Act<'static>;
            type Config = ();

            fn configure(_config: ()) -> Result<Rule, String> {
                Ok(Rule)
            }
        }

        impl pelton_sdk::Transform for Rule {
            fn process(
                &self,
                event: &pelton_sdk::Event<'_, $crate::Act<'static>>,
                output: &mut pelton_sdk::Output<'_>,
            ) -> Result<(), pelton_sdk::Error> {
                if event.fields.misbehaves() {
                    return $process(output);
                }
                output.forward();
                Ok(())
            }
        }

        pelton_sdk::export!(transform: Rule);
    };
}

#[cfg(test)]
mod tests;
