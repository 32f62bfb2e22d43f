//! Random draws that are equal on every platform.
//!
//! One ChaCha8 generator per (seed, purpose, enterprise): enterprise 17 gets the same draws whether 20 or 20 million are made,
//! and no feed depends on another. All arithmetic is on integers. `exp`, `ln` and the like are left to the mathematics
//! library of the platform by the standard library and may differ in the last digit, so skewed amounts use a fixed-point
//! power of two, and the distributions of the `rand` crate, whose draws may change between versions, are not used.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// One in fixed point with 16 fractional bits.
pub(crate) const ONE_Q16: i64 = 1 << 16;

/// A stream of draws.
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream for one purpose (a dataset, the profile, the ugliness) of one enterprise.
    pub(crate) fn new(seed: u64, purpose: u64, enterprise: u64) -> Self {
        let mut key = [0_u8; 32];
        for (part, value) in key.chunks_exact_mut(8).zip([
            seed,
            purpose,
            enterprise,
            u64::from_le_bytes(*b"qihui\0v1"),
        ]) {
            part.copy_from_slice(&value.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number in `0..bound`; 0 when the bound is 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let wide = u64::from(self.0.next_u32()) * u64::from(bound);
        u32::try_from(wide >> 32).unwrap_or(u32::MAX)
    }

    /// A number in `low..=high`; `low` when the range is empty.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        if high <= low {
            return low;
        }
        let span = u128::from(high.abs_diff(low)) + 1;
        let offset = (u128::from(self.0.next_u64()) * span) >> 64;
        low.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX))
    }

    /// True in `per_million` of a million cases.
    pub(crate) fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < per_million
    }

    /// One of the items.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        &items[self.below(count) as usize]
    }

    /// The index of a weight, with a probability in proportion to it.
    pub(crate) fn weighted(&mut self, weights: impl Iterator<Item = u32> + Clone) -> usize {
        let total = weights.clone().fold(0_u32, u32::saturating_add);
        let mut at = self.below(total);
        for (index, weight) in weights.enumerate() {
            if at < weight {
                return index;
            }
            at -= weight;
        }
        0
    }

    /// A standard normal value in Q16: the sum of twelve uniform 16-bit numbers has a deviation of exactly 2^16.
    pub(crate) fn normal_q16(&mut self) -> i64 {
        let mut sum = 0_i64;
        for _ in 0..3 {
            let word = self.0.next_u64();
            for shift in [0, 16, 32, 48] {
                sum += i64::try_from((word >> shift) & 0xffff).unwrap_or(0);
            }
        }
        sum - 12 * 0xffff / 2
    }

    /// A log-normal value: `median` × 2^(`sigma_q16` × z), z standard normal.
    pub(crate) fn log_normal(&mut self, median: i64, sigma_q16: i64) -> i64 {
        let z = self.normal_q16();
        scale_exp2(median, (sigma_q16 * z) >> 16)
    }
}

/// 2^(2^-k) in Q32 for k = 1..=16.
const ROOTS_Q32: [u64; 16] = [
    6_074_000_999,
    5_107_605_667,
    4_683_695_047,
    4_485_121_743,
    4_389_014_833,
    4_341_736_423,
    4_318_288_543,
    4_306_612_133,
    4_300_785_773,
    4_297_875_550,
    4_296_421_177,
    4_295_694_174,
    4_295_330_720,
    4_295_149_004,
    4_295_058_149,
    4_295_012_722,
];

/// `value` × 2^`exponent_q16`, rounded down, kept within i64; the exponent is held within ±24.
pub(crate) fn scale_exp2(value: i64, exponent_q16: i64) -> i64 {
    let exponent = exponent_q16.clamp(-24 * ONE_Q16, 24 * ONE_Q16);
    let whole = exponent >> 16;
    let fraction = exponent & 0xffff;
    let mut factor_q32: u128 = 1 << 32;
    for (k, root) in ROOTS_Q32.iter().enumerate() {
        if fraction & (0x8000 >> k) != 0 {
            factor_q32 = (factor_q32 * u128::from(*root)) >> 32;
        }
    }
    let product = u128::from(value.unsigned_abs()) * factor_q32;
    let shifted = if whole >= 0 {
        product << whole
    } else {
        product >> -whole
    };
    let magnitude = i64::try_from(shifted >> 32)
        .unwrap_or(i64::MAX / 4)
        .min(i64::MAX / 4);
    if value < 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two() {
        assert_eq!(scale_exp2(1000, 0), 1000);
        assert_eq!(scale_exp2(1000, 3 * ONE_Q16), 8000);
        assert_eq!(scale_exp2(1000, -ONE_Q16), 500);
        assert_eq!(scale_exp2(1_000_000, ONE_Q16 / 2), 1_414_213);
        assert_eq!(scale_exp2(-1000, ONE_Q16), -2000);
        assert_eq!(scale_exp2(i64::MAX, 24 * ONE_Q16), i64::MAX / 4);
    }

    #[test]
    fn draws_stay_in_bounds_and_look_normal() {
        let mut draw = Draw::new(1, 2, 3);
        let (mut sum, mut squares) = (0_i64, 0_i64);
        for _ in 0..20_000 {
            assert!(draw.below(7) < 7);
            assert!((-5..=9).contains(&draw.between(-5, 9)));
            let z = draw.normal_q16() / 256;
            sum += z;
            squares += z * z;
        }
        assert!(
            (sum / 20_000).abs() < 8,
            "mean of z is {} / 256",
            sum / 20_000
        );
        let variance = squares / 20_000;
        assert!(
            (63_000..68_000).contains(&variance),
            "variance of z is {variance} / 65536"
        );
    }

    #[test]
    fn streams_are_independent_of_each_other() {
        let first =
            |seed, purpose, enterprise| Draw::new(seed, purpose, enterprise).between(0, i64::MAX);
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        assert_ne!(first(1, 2, 3), first(1, 2, 4));
        assert_ne!(first(1, 2, 3), first(1, 3, 3));
        assert_ne!(first(1, 2, 3), first(2, 2, 3));
    }
}
