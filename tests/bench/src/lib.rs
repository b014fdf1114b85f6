//! Yardsticks and what measures against them: shared by the `bench` and `demo` drivers and the `yardstick` program.

#![forbid(unsafe_code)]

pub mod events;
pub mod measure;
pub mod native;
pub mod pelton;
pub mod place;
pub mod publish;
pub mod raw;
pub mod rows;
pub mod stream;
pub mod table;
pub mod truth;
