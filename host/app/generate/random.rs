//! Chance from a seed, the same on every machine: ChaCha8, integers, and only the exactly rounded operations
//! `+ - * /` and square root. A library `powf` may differ in the last bit from one platform to the next.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A seeded source of numbers.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in `0..n`; 0 when `n` is 0. The bias is below 2⁻³² for any `n` used here.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `low..high`.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(high.abs_diff(low)) as i64
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Zipf's law over ranks from 0: rank `k` has the weight `1 / (k + 1)^exponent`.
pub(super) struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    /// `exponent` counts to two decimals.
    pub(super) fn new(ranks: u32, exponent: f64) -> Zipf {
        let hundredths = (exponent * 100.0).round() as u32;
        let mut sum = 0.0;
        let cumulative = (1..=ranks)
            .map(|rank| {
                sum += 1.0 / power(root(f64::from(rank)), hundredths);
                sum
            })
            .collect();
        Zipf { cumulative }
    }

    pub(super) fn draw(&self, dice: &mut Dice) -> u32 {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let at = dice.unit() * total;
        let rank = self.cumulative.partition_point(|sum| *sum <= at);
        rank.min(self.cumulative.len() - 1) as u32
    }
}

/// The 100th root: two fifth roots and two square roots.
fn root(value: f64) -> f64 {
    fifth_root(fifth_root(value)).sqrt().sqrt()
}

/// Newton's method from above; ends when a step changes nothing or would go up again.
fn fifth_root(value: f64) -> f64 {
    let mut guess = 1.0 + (value - 1.0) / 5.0;
    loop {
        let squared = guess * guess;
        let next = (4.0 * guess + value / (squared * squared)) / 5.0;
        if next >= guess {
            return guess;
        }
        guess = next;
    }
}

/// `base` to a whole power, by squaring.
fn power(mut base: f64, mut exponent: u32) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// A well-mixed hash of two numbers: for attributes that belong to an account, such as its country.
pub(super) fn mix(left: u64, right: u64) -> u64 {
    let mut hash = left ^ right.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_come_close_to_the_library() {
        for rank in [1u32, 2, 10, 12_345, 200_000] {
            for hundredths in [0u32, 80, 100, 105] {
                let found = power(root(f64::from(rank)), hundredths);
                let expected = f64::from(rank).powf(f64::from(hundredths) / 100.0);
                assert!((found / expected - 1.0).abs() < 1e-9, "{rank}^{hundredths}/100: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn the_first_rank_gets_its_share() {
        let zipf = Zipf::new(100, 1.0);
        let mut dice = Dice::new(7);
        let first = (0..100_000).filter(|_| zipf.draw(&mut dice) == 0).count();
        // 1 / H(100) = 0.1928
        assert!((18_900..19_700).contains(&first), "{first}");
    }

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let mut dice = Dice::new(1);
        let drawn: Vec<u64> = (0..4).map(|_| dice.below(1000)).collect();
        let mut again = Dice::new(1);
        assert_eq!(drawn, (0..4).map(|_| again.below(1000)).collect::<Vec<_>>());
        assert_ne!(drawn, (0..4).map(|_| Dice::new(2).below(1000)).collect::<Vec<_>>());
    }
}
