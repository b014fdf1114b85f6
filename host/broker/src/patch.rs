//! Fixes that a server of an older patch level does not have, as far as they touch what Pelton promises.

/// One kind of fix. The bounds are those of the newest release of each line before which it was made; whether each of
/// them was brought to an older line was not verified, so the texts say no more than "fixes since then".
struct Fix {
    /// First versions that have it, one per line (major, minor); lines after the last one have it.
    since: &'static [(u32, u32, u32)],
    text: &'static str,
}

const FIXES: &[Fix] = &[
    Fix {
        since: &[(2, 14, 6), (2, 15, 0)],
        text: "fixes since then concern `sync_interval: always` while blocks are compacted: a power failure may take \
               back what was acknowledged",
    },
    Fix {
        since: &[(2, 14, 6), (2, 15, 0)],
        text: "fixes since then concern atomic batches: a batch may be refused that should not be",
    },
    Fix {
        since: &[(2, 14, 6), (2, 15, 0)],
        text: "fixes since then concern compressed and encrypted streams: leave both off",
    },
];

/// What is weaker on a server of this version; nothing when the version is not readable.
pub(crate) fn weaknesses(version: &str) -> Vec<&'static str> {
    let Some(version) = parse(version) else { return Vec::new() };
    FIXES.iter().filter(|fix| !has(fix.since, version)).map(|fix| fix.text).collect()
}

/// A release candidate counts as its release.
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let release = version.trim_start_matches('v').split(['-', '+']).next()?;
    let mut parts = release.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
}

fn has(since: &[(u32, u32, u32)], version: (u32, u32, u32)) -> bool {
    let line = |of: (u32, u32, u32)| (of.0, of.1);
    match since.iter().find(|first| line(**first) == line(version)) {
        Some(first) => version >= *first,
        None => since.last().is_none_or(|last| version > *last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_patch_levels_are_weaker() {
        for version in ["2.14.6", "2.14.10", "2.15.0", "v2.15.1", "2.15.0-RC.1", "2.16.0", "3.0.0", "strange"] {
            assert_eq!(weaknesses(version), [""; 0], "{version}");
        }
        for version in ["2.12.3", "2.13.99", "2.14.5", "2.14.0-beta.1"] {
            assert_eq!(weaknesses(version).len(), FIXES.len(), "{version}");
        }
    }
}
