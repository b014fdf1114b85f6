//! Sizes as text: `64MiB`, `1GiB`, `10MB`. A plain integer is bytes and is handled by the reader.

/// Unit and its bytes. The 1024s come first: [`size_text`] prefers them.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads a size in bytes: a whole number and a unit.
///
/// # Errors
/// Says what is wrong, to follow "is not a size: ".
pub fn size_parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("there is no whole number in front".to_owned());
    }
    if unit.is_empty() {
        return Err(format!("there is no unit after `{number}`"));
    }
    let Some((_, bytes)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("unknown unit `{unit}`"));
    };
    let count = number.parse::<u64>().ok().and_then(|count| count.checked_mul(*bytes));
    count.ok_or_else(|| "it is too large".to_owned())
}

/// A size as a pipeline file would say it: the largest unit that leaves a whole number.
pub(in crate::plan) fn size_text(bytes: u64) -> String {
    for (unit, size) in UNITS {
        if bytes != 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size_parse("64MiB"), Ok(64 << 20));
        assert_eq!(size_parse("1GiB"), Ok(1 << 30));
        assert_eq!(size_parse("512KiB"), Ok(512 << 10));
        assert_eq!(size_parse("10MB"), Ok(10_000_000));
        assert_eq!(size_parse("7B"), Ok(7));
        assert_eq!(size_parse("64"), Err("there is no unit after `64`".to_owned()));
        assert_eq!(size_parse("64mb"), Err("unknown unit `mb`".to_owned()));
        assert_eq!(size_parse("1.5GiB"), Err("unknown unit `.5GiB`".to_owned()));
        assert_eq!(size_parse("MiB"), Err("there is no whole number in front".to_owned()));
        assert_eq!(size_parse("99999999TiB"), Err("it is too large".to_owned()));
        assert_eq!(size_parse("99999999999999999999B"), Err("it is too large".to_owned()));
    }

    #[test]
    fn a_printed_size_reads_back() {
        for bytes in [0, 1, 1000, 1024, 1_500_000, 64 << 20, 3 << 40] {
            assert_eq!(size_parse(&size_text(bytes)), Ok(bytes));
        }
    }
}
