//! Sums that know whether there was anything to add.

/// A sum of integers, exact: 2^62 values of 64 bits fit into the 127 bits that it has. The last of its 128 bits says
/// whether there was anything to add.
///
/// Stored in two parts, since a 128-bit integer would align every row to 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntegerSum {
    low: u64,
    /// Twice the upper part of the sum, and 1 when something was added.
    high: i64,
}

/// The ends of 127 bits; only damaged state gets there.
const TOTAL_MAX: i128 = (1 << 126) - 1;
const TOTAL_MIN: i128 = -(1 << 126);

impl IntegerSum {
    /// A sum that was stored; `None` of nothing.
    #[must_use]
    pub fn from_total(total: Option<i128>) -> IntegerSum {
        let mut sum = IntegerSum::default();
        if let Some(total) = total {
            sum.set(total);
        }
        sum
    }

    /// The exact sum; `None` of nothing.
    #[inline]
    #[must_use]
    pub fn total(&self) -> Option<i128> {
        (self.high & 1 == 1).then(|| self.wide())
    }

    /// The sum in 64 bits, and whether it had to be clipped to one of their ends; `None` of nothing.
    #[inline]
    #[must_use]
    pub fn clipped(&self) -> Option<(i64, bool)> {
        let total = self.total()?;
        Some(match i64::try_from(total) {
            Ok(total) => (total, false),
            Err(_) if total < 0 => (i64::MIN, true),
            Err(_) => (i64::MAX, true),
        })
    }

    /// Adds one value.
    #[inline]
    pub fn add(&mut self, value: i64) {
        self.set(self.wide() + i128::from(value));
    }

    /// Adds another sum.
    #[inline]
    pub fn merge(&mut self, other: &IntegerSum) {
        if let Some(other) = other.total() {
            self.set(self.wide() + other);
        }
    }

    #[inline]
    fn wide(&self) -> i128 {
        i128::from(self.high >> 1) << 64 | i128::from(self.low)
    }

    #[inline]
    fn set(&mut self, total: i128) {
        let total = total.clamp(TOTAL_MIN, TOTAL_MAX);
        (self.low, self.high) = (total as u64, ((total >> 64) as i64) << 1 | 1);
    }
}

/// A compensated sum of numbers (Neumaier: "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen", 1974).
///
/// Of n values and slices together it is off by at most 2^-53 of the sum and (n · 2^-53)² of the sum of the absolute
/// values (Ogita, Rump, Oishi: "Accurate sum and dot product", 2005, proposition 4.5), so what is lost hardly ever shows;
/// a naive sum is off by n · 2^-53 of the sum of the absolute values. The values of a slice are added in order of
/// arrival, then the slices in order of time.
///
/// A sum that leaves the range of a number, also on the way, is infinite; of infinities of both signs it is NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NumberSum {
    sum: f64,
    lost: f64,
    seen: bool,
}

impl NumberSum {
    /// A sum that was stored, see [`NumberSum::parts`].
    #[must_use]
    pub fn from_parts(parts: Option<(f64, f64)>) -> NumberSum {
        parts.map_or(NumberSum::default(), |(sum, lost)| NumberSum { sum, lost, seen: true })
    }

    /// The naive sum and what it has lost by rounding; `None` of nothing.
    #[must_use]
    pub fn parts(&self) -> Option<(f64, f64)> {
        self.seen.then_some((self.sum, self.lost))
    }

    /// The sum; `None` of nothing.
    #[inline]
    #[must_use]
    pub fn total(&self) -> Option<f64> {
        // What an infinite sum has lost is NaN.
        self.seen.then(|| if self.sum.is_finite() { self.sum + self.lost } else { self.sum })
    }

    /// Adds one value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let total = self.sum + value;
        self.lost +=
            if self.sum.abs() >= value.abs() { (self.sum - total) + value } else { (value - total) + self.sum };
        (self.sum, self.seen) = (total, true);
    }

    /// Adds another sum.
    #[inline]
    pub fn merge(&mut self, other: &NumberSum) {
        if other.seen {
            self.add(other.sum);
            self.lost += other.lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[i64]) -> IntegerSum {
        values.iter().fold(IntegerSum::default(), |mut sum, value| {
            sum.add(*value);
            sum
        })
    }

    #[test]
    fn integers_are_clipped_once_and_only_at_the_end() {
        assert_eq!(IntegerSum::default().clipped(), None);
        assert_eq!(sum(&[0]).clipped(), Some((0, false)));
        assert_eq!(sum(&[-1]).total(), Some(-1));
        assert_eq!(sum(&[i64::MAX]).clipped(), Some((i64::MAX, false)));
        assert_eq!(sum(&[i64::MAX, 1]).clipped(), Some((i64::MAX, true)));
        assert_eq!(sum(&[i64::MAX, 1, -10]).clipped(), Some((i64::MAX - 9, false)));
        assert_eq!(sum(&[i64::MIN, -1]).clipped(), Some((i64::MIN, true)));
        assert_eq!(sum(&[i64::MIN, -1, 1]).clipped(), Some((i64::MIN, false)));
        let mut merged = sum(&[i64::MAX; 5]);
        merged.merge(&IntegerSum::default());
        merged.merge(&sum(&[i64::MIN; 5]));
        assert_eq!(merged.clipped(), Some((-5, false)));
        for total in [None, Some(0), Some(-1), Some(TOTAL_MAX), Some(TOTAL_MIN), Some(1 << 64), Some(-(1 << 64))] {
            assert_eq!(IntegerSum::from_total(total).total(), total);
        }
        for (damaged, end) in [(i128::MAX, i64::MAX), (i128::MIN, i64::MIN)] {
            let mut full = IntegerSum::from_total(Some(damaged));
            full.merge(&full.clone());
            full.add(end);
            assert_eq!(full.clipped(), Some((end, true)), "damaged state is no panic");
        }
    }

    #[test]
    fn numbers_keep_what_rounding_loses() {
        let sum = |values: &[f64]| {
            let mut sum = NumberSum::default();
            values.iter().for_each(|value| sum.add(*value));
            sum
        };
        assert_eq!(NumberSum::default().total(), None);
        assert_eq!(sum(&[1e16, 1.0, -1e16]).total(), Some(1.0));
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]).total(), Some(2.0));
        assert_eq!(sum(&[0.1; 10]).total(), Some(1.0));
        let mut merged = sum(&[1e16, 1.0]);
        merged.merge(&NumberSum::default());
        merged.merge(&sum(&[-1e16]));
        assert_eq!(merged.total(), Some(1.0));
        assert_eq!(sum(&[1e308, 1e308, -1e308]).total(), Some(f64::INFINITY));
        assert_eq!(sum(&[f64::INFINITY, 1.0]).total(), Some(f64::INFINITY));
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).total().is_some_and(f64::is_nan));
        let stored = NumberSum::from_parts(sum(&[1e16, 1.0]).parts());
        assert_eq!(stored, sum(&[1e16, 1.0]));
    }
}
