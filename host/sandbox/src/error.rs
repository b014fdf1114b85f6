//! Why a module was refused, with a code that a program can act on and a message for people.

/// A module was not loaded or not instantiated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    /// The reason, as a closed set.
    pub refusal: Refusal,
    /// The facts, in lower case.
    pub message: String,
}

/// The closed set of reasons. All but `Host` mean: fix the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The file is larger than the limit.
    Size,
    /// Machine code of a previous compilation, not wasm.
    Precompiled,
    /// Not wasm at all.
    NotWasm,
    /// A core module, not a component.
    CoreModule,
    /// Does not parse or validate.
    Invalid,
    /// Too many or too large functions, calls, locals, tables.
    Shape,
    /// Imports something other than `log`.
    Import,
    /// Exports none or several of the four interfaces, or another version of them.
    World,
    /// Does not compile, not within its limits, or does not link.
    Compile,
    /// Does not start, or `describe` fails or says something impossible.
    Describe,
    /// `configure` refused the configuration or failed.
    Configure,
    /// The host could not do it; the module may be fine.
    Host,
}

impl Refusal {
    pub(crate) const ALL: [Refusal; 12] = [
        Refusal::Size,
        Refusal::Precompiled,
        Refusal::NotWasm,
        Refusal::CoreModule,
        Refusal::Invalid,
        Refusal::Shape,
        Refusal::Import,
        Refusal::World,
        Refusal::Compile,
        Refusal::Describe,
        Refusal::Configure,
        Refusal::Host,
    ];

    /// The code used in catalogues, metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Size => "size",
            Refusal::Precompiled => "precompiled",
            Refusal::NotWasm => "not-wasm",
            Refusal::CoreModule => "core-module",
            Refusal::Invalid => "invalid",
            Refusal::Shape => "shape",
            Refusal::Import => "import",
            Refusal::World => "world",
            Refusal::Compile => "compile",
            Refusal::Describe => "describe",
            Refusal::Configure => "configure",
            Refusal::Host => "host",
        }
    }

    /// An error of this kind.
    pub(crate) fn because(self, message: impl Into<String>) -> LoadError {
        LoadError { refusal: self, message: message.into() }
    }
}
