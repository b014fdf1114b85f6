//! Durations as text: `90s`, `5m`, `1h30m`, `2d`, `250ms`.

use crate::time::Span;

/// Unit and its milliseconds, largest first. `ms` comes before `m` would match: units are compared whole.
const UNITS: [(&str, i64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration: whole numbers with a unit each, largest unit first, every unit at most once.
///
/// # Errors
/// Says what is wrong, to follow "is not a duration: ".
pub(super) fn duration_parse(text: &str) -> Result<Span, String> {
    let mut rest = text;
    let mut total: i64 = 0;
    let mut units_left: &[(&str, i64)] = &UNITS;
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        if number.is_empty() {
            return Err(format!("there is no whole number before `{unit}`"));
        }
        if unit.is_empty() {
            return Err(format!("there is no unit after `{number}`"));
        }
        if !UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(format!("unknown unit `{unit}`"));
        }
        let Some(position) = units_left.iter().position(|(name, _)| *name == unit) else {
            return Err(format!("`{unit}` comes after a unit that is not larger"));
        };
        let millis = units_left[position].1;
        units_left = &units_left[position + 1..];
        let part = number.parse::<i64>().ok().and_then(|count| count.checked_mul(millis));
        total = part.and_then(|part| total.checked_add(part)).ok_or("it is too long")?;
        rest = next;
    }
    Ok(Span(total))
}

/// A span as a pipeline file would say it: `1h30m`. Reading it back gives the same span.
pub(in crate::plan) fn span_text(span: Span) -> String {
    let mut text = String::new();
    let mut rest = span.0;
    for (unit, millis) in UNITS {
        let count = rest / millis;
        if count != 0 {
            text.push_str(&format!("{count}{unit}"));
            rest -= count * millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<i64, &str>) {
        assert_eq!(
            duration_parse(text).map(|span| span.0).as_ref().map_err(String::as_str),
            expected.as_ref().map_err(|e| *e)
        );
    }

    #[test]
    fn durations() {
        check("90s", Ok(90_000));
        check("5m", Ok(300_000));
        check("1h", Ok(3_600_000));
        check("2d", Ok(172_800_000));
        check("250ms", Ok(250));
        check("1h30m", Ok(5_400_000));
        check("1d2h3m4s5ms", Ok(93_784_005));
        check("0s", Ok(0));
        check("", Err("it is empty"));
        check("5", Err("there is no unit after `5`"));
        check("1h5", Err("there is no unit after `5`"));
        check("m", Err("there is no whole number before `m`"));
        check("-5m", Err("there is no whole number before `-`"));
        check("1.5h", Err("unknown unit `.`"));
        check("5 m", Err("unknown unit ` m`"));
        check("5min", Err("unknown unit `min`"));
        check("30m1h", Err("`h` comes after a unit that is not larger"));
        check("1s1s", Err("`s` comes after a unit that is not larger"));
        check("9999999999999999999d", Err("it is too long"));
        check("9223372036854775807d", Err("it is too long"));
    }

    #[test]
    fn a_printed_span_reads_back() {
        for millis in [0, 1, 999, 1000, 61_000, 90_061_001, 86_400_000] {
            assert_eq!(duration_parse(&span_text(Span(millis))), Ok(Span(millis)));
        }
        assert_eq!(span_text(Span(5_400_000)), "1h30m");
    }
}
