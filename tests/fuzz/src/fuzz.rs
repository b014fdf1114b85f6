//! libFuzzer over one target, named by `PELTON_FUZZ_TARGET`; `just fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;

use pelton_fuzz::{Target, target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("PELTON_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("PELTON_FUZZ_TARGET is `{name}`, which is no target"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
