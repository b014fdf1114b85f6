//! Event times in milliseconds: every form of one instant gives the same one, rounded down, also before 1970.

use jiff::civil::{Date, date};

const DAY_SECONDS: i64 = 86_400;

/// Milliseconds of a JSON number of seconds, read from its digits, so that no float rounds it.
/// Exponents are taken; `None` beyond 64 bits.
pub(super) fn seconds(numeral: &str) -> Option<i64> {
    let (negative, unsigned) = match numeral.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, numeral),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes()).map(|digit| i128::from(digit - b'0'));
    // An exponent that is no i32 moves everything over one end or the other.
    let exponent = exponent.parse().unwrap_or(if exponent.starts_with('-') { i32::MIN } else { i32::MAX });
    // How many digits stand before the point once seconds are milliseconds.
    let point = whole.len() as i64 + i64::from(exponent) + 3;
    let (mut value, mut is_cut) = (0_i128, false);
    for (digit, place) in digits().zip(0..) {
        if place < point {
            value = value.checked_mul(10)?.checked_add(digit)?;
        } else {
            is_cut |= digit != 0;
        }
    }
    let mut zeros = point - (whole.len() + fraction.len()) as i64;
    while zeros > 0 && value != 0 {
        value = value.checked_mul(10)?;
        zeros -= 1;
    }
    i64::try_from(if negative { -value - i128::from(is_cut) } else { value }).ok()
}

/// Milliseconds of an RFC 3339 text.
///
/// The date and the time are parted by `T`, `t` or a space; any number of digits may follow the seconds. A leap second
/// is taken where it can be, at 23:59:60 UTC on the last day of a month, and counts with the second before it.
///
/// # Errors
/// The first thing that RFC 3339 does not allow.
pub(super) fn rfc3339(text: &str) -> Result<i64, &'static str> {
    let mut rest = Rest(text.as_bytes());
    let year = rest.number(4).ok_or("it does not begin with a year of four digits")?;
    rest.one_of(b"-").ok_or("there is no `-` after the year")?;
    let month = rest.number(2).ok_or("the month is not two digits")?;
    rest.one_of(b"-").ok_or("there is no `-` after the month")?;
    let day = rest.number(2).ok_or("the day is not two digits")?;
    let day = Date::new(year as i16, month as i8, day as i8).map_err(|_| "there is no such day")?;
    rest.one_of(b"Tt ").ok_or("there is no `T` after the date")?;
    let hour = rest.number(2).ok_or("the hour is not two digits")?;
    rest.one_of(b":").ok_or("there is no `:` after the hour")?;
    let minute = rest.number(2).ok_or("the minute is not two digits")?;
    rest.one_of(b":").ok_or("there is no `:` after the minute")?;
    let second = rest.number(2).ok_or("the second is not two digits")?;
    match () {
        () if hour == 24 => return Err("hour 24 is not allowed; it is 00:00 of the next day"),
        () if hour > 23 => return Err("the hour is above 23"),
        () if minute > 59 => return Err("the minute is above 59"),
        () if second > 60 => return Err("the second is above 60"),
        () => {}
    }
    let milliseconds = rest.fraction()?;
    let offset = rest.offset()?;
    let days = day.duration_since(date(1970, 1, 1)).as_secs() / DAY_SECONDS;
    let at = days * DAY_SECONDS + i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second.min(59)) - offset;
    if second == 60 && !is_before_a_leap(at) {
        return Err("second 60 is only at 23:59:60 UTC on the last day of a month");
    }
    // A fraction adds to its second on both sides of 1970, so cutting it rounds down.
    Ok(at * 1000 + milliseconds)
}

/// Whether a leap second can follow.
fn is_before_a_leap(at: i64) -> bool {
    let day =
        jiff::Span::new().try_days(at.div_euclid(DAY_SECONDS)).and_then(|days| date(1970, 1, 1).checked_add(days));
    at.rem_euclid(DAY_SECONDS) == DAY_SECONDS - 1 && day.is_ok_and(|day| day.day() == day.days_in_month())
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// A number of exactly so many digits.
    fn number(&mut self, digits: usize) -> Option<u32> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        let value = number
            .iter()
            .try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0')))?;
        self.0 = rest;
        Some(value)
    }

    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        bytes.contains(&first).then(|| self.0 = rest).map(|()| first)
    }

    /// The milliseconds of a fraction of any length.
    fn fraction(&mut self) -> Result<i64, &'static str> {
        if self.0.first() == Some(&b',') {
            return Err("the fraction begins with a comma instead of a point");
        }
        if self.one_of(b".").is_none() {
            return Ok(0);
        }
        let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return Err("there is no digit after the point");
        }
        let (digits, rest) = self.0.split_at(length);
        self.0 = rest;
        let digits = digits.iter().map(|digit| i64::from(digit - b'0')).chain([0, 0]);
        Ok(digits.take(3).fold(0, |value, digit| value * 10 + digit))
    }

    /// Seconds east of UTC, and the end of the text.
    fn offset(&mut self) -> Result<i64, &'static str> {
        const MISSING: &str = "there is no offset at the end (`Z` or such as `+01:00`)";
        let seconds = match self.one_of(b"Zz+-").ok_or(MISSING)? {
            b'Z' | b'z' => 0,
            sign => {
                const SHAPE: &str = "the offset is not written as in `+01:00`";
                let hours = self.number(2).ok_or(SHAPE)?;
                self.one_of(b":").ok_or(SHAPE)?;
                let minutes = self.number(2).ok_or(SHAPE)?;
                if hours > 23 || minutes > 59 {
                    return Err("the offset is beyond 23:59");
                }
                let east = i64::from(hours) * 3600 + i64::from(minutes) * 60;
                if sign == b'-' { -east } else { east }
            }
        };
        match self.0.first() {
            None => Ok(seconds),
            Some(b'[') => Err("a time zone in brackets is not part of RFC 3339"),
            Some(_) => Err("there is more text after the offset"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_rfc_3339_allows() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00z", 0),
            ("1970-01-01 00:00:00.0Z", 0),
            ("1970-01-01T00:00:00-00:00", 0),
            ("1970-01-01T23:59:00+23:59", 0),
            ("1969-12-31T00:01:00-23:59", 0),
            ("1970-01-01T00:00:00.5Z", 500),
            ("1970-01-01T00:00:00.1234567890123456789Z", 123),
            ("1969-12-31T23:59:59.9995Z", -1),
            ("1969-12-31T23:59:59.9990000000001Z", -1),
            ("1960-01-01T00:00:04.999999Z", -315_619_195_001),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000),
            ("0000-01-01T00:00:00+23:59", -62_167_305_540_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139_000),
            ("2016-12-31T23:59:60Z", 1_483_228_799_000),
            ("2016-12-31T23:59:60.5Z", 1_483_228_799_500),
            ("2017-01-01T00:59:60+01:00", 1_483_228_799_000),
            ("9999-12-31T23:59:60Z", 253_402_300_799_000),
        ] {
            assert_eq!(rfc3339(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_it_does_not_allow_is_named() {
        for (text, reason) in [
            ("", "begin with a year"),
            ("1 May", "begin with a year"),
            ("+12024-05-01T00:00:00Z", "begin with a year"),
            ("20240501T000000Z", "no `-` after the year"),
            ("2024-5-01T00:00:00Z", "month is not two"),
            ("2024-05-1T00:00:00Z", "day is not two"),
            ("2024-02-30T00:00:00Z", "no such day"),
            ("2023-02-29T00:00:00Z", "no such day"),
            ("2024-00-01T00:00:00Z", "no such day"),
            ("2024-13-01T00:00:00Z", "no such day"),
            ("2024-05-01", "no `T`"),
            ("2024-05-01_00:00:00Z", "no `T`"),
            ("2024-05-01T00Z", "no `:` after the hour"),
            ("2024-05-01T000000Z", "no `:` after the hour"),
            ("2024-05-01T00:00Z", "no `:` after the minute"),
            ("2024-05-01T24:00:00Z", "hour 24"),
            ("2024-05-01T25:00:00Z", "above 23"),
            ("2024-05-01T00:60:00Z", "minute is above"),
            ("2024-05-01T00:00:61Z", "second is above"),
            ("2024-05-01T12:00:60Z", "second 60"),
            ("2016-12-31T23:59:60+01:00", "second 60"),
            ("2016-12-30T23:59:60Z", "second 60"),
            ("9999-12-31T23:59:60-01:00", "second 60"),
            ("2024-05-01T00:00:00,5Z", "comma"),
            ("2024-05-01T00:00:00.Z", "no digit"),
            ("2024-05-01T00:00:00", "no offset"),
            ("2024-05-01T00:00:00 Z", "no offset"),
            ("2024-05-01T00:00:00+24:00", "beyond 23:59"),
            ("2024-05-01T00:00:00+01:60", "beyond 23:59"),
            ("2024-05-01T00:00:00+0100", "as in `+01:00`"),
            ("2024-05-01T00:00:00+01", "as in `+01:00`"),
            ("2024-05-01T00:00:00Z[UTC]", "brackets"),
            ("2024-05-01T00:00:00+09:00[Europe/Berlin]", "brackets"),
            ("2024-05-01T00:00:00Z ", "more text"),
            ("٢٠٢٤-05-01T00:00:00Z", "begin with a year"),
        ] {
            let said = rfc3339(text).expect_err(text);
            assert!(said.contains(reason), "{text}: {said}");
        }
    }

    #[test]
    fn seconds_by_their_digits() {
        for (numeral, expected) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-0.0", Some(0)),
            ("1700000000.25", Some(1_700_000_000_250)),
            ("1700000000.9999999999999999999", Some(1_700_000_000_999)),
            ("-0.0001", Some(-1)),
            ("-1.5", Some(-1500)),
            ("-1.5000000000000000000001", Some(-1501)),
            ("1e9", Some(1_000_000_000_000)),
            ("1.7000000005E+9", Some(1_700_000_000_500)),
            ("15e-1", Some(1500)),
            ("1e-400", Some(0)),
            ("-1e-400", Some(-1)),
            ("0e99999999999", Some(0)),
            ("1e99999999999", None),
            ("-1e-99999999999", Some(-1)),
            ("9223372036854775.807", Some(i64::MAX)),
            ("9223372036854775.808", None),
            ("-9223372036854775.808", Some(i64::MIN)),
            ("-9223372036854775.8081", None),
            ("99999999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(seconds(numeral), expected, "{numeral}");
        }
    }

    proptest! {
        /// Nanoseconds of the years 0 to 9999, most of them near 1970, some near the ends.
        #[test]
        fn every_form_of_an_instant_gives_one_time(
            nanos in prop_oneof![
                -3_000_000_000..3_000_000_000_i128,
                -62_167_219_200_000_000_000..253_402_207_200_000_000_000_i128,
                -62_167_219_200_000_000_000..-62_167_219_100_000_000_000_i128,
            ],
            more in "[0-9]{0,20}",
        ) {
            let expected = nanos.div_euclid(1_000_000) as i64;
            let (seconds_below, below) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
            let second = jiff::Timestamp::from_second(seconds_below as i64).expect("within range").to_string();
            let text = format!("{}.{below:09}{more}Z", second.trim_end_matches('Z'));
            prop_assert_eq!(rfc3339(&text), Ok(expected), "{}", text);
            let (sign, size) = if nanos < 0 { ("-", -nanos) } else { ("", nanos) };
            let numeral = format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000);
            prop_assert_eq!(seconds(&numeral), Some(expected), "{}", numeral);
            prop_assert_eq!(seconds(&format!("{sign}{size}e-9")), Some(expected));
        }
    }
}
