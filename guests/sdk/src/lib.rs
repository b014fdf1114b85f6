//! What rule authors import.
//!
//! A rule is a struct of the fields it reads, a few pure functions and one macro.
//! It is tested natively with `cargo test` (see [`testing`]) and built for `wasm32-unknown-unknown`.
//! A rule has no clock, no random numbers and no memory between calls: the host keeps all state,
//! and the same events give the same results however they are cut into batches.
//!
//! | trait | for |
//! | --- | --- |
//! | [`Transform`] | stateless: validate, enrich, route, shape |
//! | [`WindowRule`] (and [`Extract`]) | windows over aggregates that the host keeps |
//! | [`Reducer`] | state and timers per key |
//! | [`WindowFold`] | windows over the rule's own accumulator |
//!
//! ```
//! use pelton_sdk::{Aggregation, Error, Fields, Module, Output, Pane, WindowRule};
//!
//! #[derive(Fields)]
//! struct Play<'a> {
//!     track_id: &'a str,
//!     ms_played: i64,
//! }
//!
//! struct Heavy;
//!
//! impl Module for Heavy {
//!     type Fields = Play<'static>;
//!     type Config = ();
//!     fn configure(_config: ()) -> Result<Heavy, String> {
//!         Ok(Heavy)
//!     }
//! }
//!
//! impl WindowRule for Heavy {
//!     fn aggregates(&self) -> Aggregation {
//!         Aggregation::new().count("plays").distinct("tracks", Play::TRACK_ID, 1000).at_least("plays", 100)
//!     }
//!
//!     fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error> {
//!         output.emit(format!("{} played {} tracks", pane.key, pane.count("tracks")));
//!         Ok(())
//!     }
//! }
//!
//! pelton_sdk::export!(window_rule: Heavy);
//! ```

// Generated code names this crate, also inside of it.
extern crate self as pelton_sdk;

pub mod fields {
    //! Fields that a configuration decides.
    pub use crate::field::{Configured, ConfiguredRow};
}
pub mod log;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

mod counters;
mod error;
mod event;
mod field;
mod module;
mod optional;
mod output;
mod pane;
mod reducer;
mod state;
mod transform;
mod window_fold;
mod window_rule;

pub mod raw;

pub use counters::Counters;
pub use error::{Error, Failure};
pub use event::Event;
pub use field::{Column, Columns, Decimal, Field, Fields, Kind, Lenient, Need, RawJson, Value};
pub use module::{Adapter, Identity, Module, declared, report_panics};
pub use optional::{Erase, Migrate, Rewrite};
pub use output::{OF_ROW, Output, Record};
pub use pane::{Pane, TopItem};
pub use pelton_sdk_derive::Fields;
pub use raw::{Shape, Timing};
pub use reducer::{KeyState, Reducer};
pub use state::{Json, State};
pub use transform::Transform;
pub use window_fold::WindowFold;
pub use window_rule::{Aggregation, Extract, ExtractAdapter, Samples, WindowRule};

#[doc(hidden)]
pub use wit_bindgen;

/// Makes a rule the module of its crate: `export!(window_rule: StreamFarm);`
///
/// The word before the colon is the world: `transform`, `window_rule`, `window_rule + extract`, `reducer` or
/// `window_fold`. What a rule can besides has lines of its own: `export!(migrations: Rule)` ([`Migrate`]),
/// `export!(erasures: Rule)` ([`Erase`]). Name and version of the module are those of the crate. Natively it exports
/// nothing.
#[macro_export]
macro_rules! export {
    (transform: $rule:ty) => {
        $crate::export!(@world $rule, $crate::Adapter<$rule>, transform, export_transform);
    };
    (window_rule: $rule:ty) => {
        $crate::export!(@world $rule, $crate::Adapter<$rule>, window_rule, export_window_rule);
    };
    (window_rule + extract: $rule:ty) => {
        $crate::export!(@world $rule, $crate::ExtractAdapter<$rule>, window_rule, export_window_rule);
    };
    (reducer: $rule:ty) => {
        $crate::export!(@world $rule, $crate::Adapter<$rule>, reducer, export_reducer);
    };
    (window_fold: $rule:ty) => {
        $crate::export!(@world $rule, $crate::Adapter<$rule>, window_fold, export_window_fold);
    };
    (migrations: $rule:ty) => {
        $crate::export!(@optional $rule, migration, export_migration, pelton_migrations);
    };
    (erasures: $rule:ty) => {
        $crate::export!(@optional $rule, erasure, export_erasure, pelton_erasures);
    };
    (@optional $rule:ty, $interface:ident, $export:ident, $module:ident) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the generated exports of the contract")]
        mod $module {
            use super::*;
            type Exported = $crate::Adapter<$rule>;
            $crate::raw::$interface::$export!(Exported);
        }
    };
    (@world $rule:ty, $adapter:ty, $world:ident, $export:ident) => {
        impl $crate::Identity for $rule {
            const NAME: &'static str = env!("CARGO_CRATE_NAME");
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");
        }

        // Natively only tests call the rule, but it is not dead.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::raw::Identity = <$adapter as $crate::raw::meta::Guest>::describe;

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the generated exports of the contract")]
        mod pelton_exports {
            use super::*;
            type Exported = $adapter;
            $crate::raw::meta::export_meta!(Exported);
            $crate::raw::$world::$export!(Exported);
        }
    };
}
