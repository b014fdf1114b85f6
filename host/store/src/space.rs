//! Whether the disk has room for a write, and how that is said.

use std::path::Path;

use pelton_engine::store::StoreError;

/// sled writes a value more than once: when it is new and when its node is written anew.
const TIMES_WRITTEN: u64 = 3;

/// Refuses a write of about `bytes` into `dir` when it would eat into the reserve.
pub(crate) fn check(free: u64, bytes: usize, reserve: u64, dir: &Path) -> Result<(), StoreError> {
    let write = TIMES_WRITTEN * bytes as u64;
    if free >= reserve.saturating_add(write) {
        return Ok(());
    }
    Err(StoreError::Environment(format!(
        "folder {} has {} free, {} are needed: {} for this write and {} that always stay free",
        dir.display(),
        size(free),
        size(reserve.saturating_add(write)),
        size(write),
        size(reserve),
    )))
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let unit = (0..UNITS.len() - 1).find(|unit| bytes < 1024 << (10 * unit)).unwrap_or(UNITS.len() - 1);
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!("{:.1} {}", bytes as f64 / (1u64 << (10 * unit)) as f64, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_write_says_what_is_free_what_is_needed_and_where() {
        let dir = Path::new("/state/p3");
        assert_eq!(check(3 << 20, 1 << 20, 0, dir), Ok(()));
        let error = check(3 << 20, 2 << 20, 1 << 30, dir).unwrap_err();
        let expected = "folder /state/p3 has 3.0 MiB free, 1.0 GiB are needed: 6.0 MiB for this write and 1.0 GiB that \
                        always stay free";
        assert_eq!(error, StoreError::Environment(expected.into()));
        assert_eq!([size(0), size(1023), size(1536)], ["0 bytes", "1023 bytes", "1.5 KiB"]);
    }
}
