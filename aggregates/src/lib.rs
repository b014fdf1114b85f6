//! What the aggregates of window rules compute: one truth for the host and for the SDK's native tests.
//!
//! A window is cut into slices (the `slide` of a sliding window; any other window is one slice). Per key and slice there
//! is one accumulator per aggregate, in a column: [`Accumulators`]. A pane merges the accumulators of its slices in order
//! of time: [`Merged`]. Nothing is rounded, clipped or cut off before the pane is finished.
//!
//! - A missing value changes nothing, and NaN (which only `extract` can give) counts as missing. −0 counts as 0.
//! - Sum, min, max and top-k over nothing are *missing*; count and distinct over nothing are 0.
//! - Integer sums are exact in 128 bits; one that leaves 64 bits is clipped to their end, once, and marked.
//! - Number sums are compensated, see [`NumberSum`].
//! - Distinct is exact up to its limit, see [`Distinct`].
//! - Top-k is exact up to [`top_capacity`] different values per slice, and has a bounded error beyond, see [`Top`].
#![forbid(unsafe_code)]

mod column;
mod distinct;
mod sum;
mod top;
mod value;

pub use column::{Accumulators, Bound, Finished, Function, Growth, Merged, Shape};
pub use distinct::{Distinct, HashKey, fingerprint};
pub use sum::{IntegerSum, NumberSum};
pub use top::{Counter, Top, TopChanges, TopItem, TopMerge, top_capacity};
pub use value::{Kind, Value};
