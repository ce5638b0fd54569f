//! Sums rounded as numpy rounds them, since a percentile jumps where a sum of areas differs in its last bit.

/// Longest part that is summed without halving it; numpy's `PW_BLOCKSIZE`.
const BLOCK: usize = 128;
/// Sums kept side by side within a part.
const LANES: usize = 8;

/// The sum as `numpy.sum` has it, to the bit (`pairwise_sum` in numpy's `loops_utils.h.src`).
pub(super) fn pairwise_sum(values: &[f64]) -> f64 {
    if values.len() > BLOCK {
        let half = values.len() / 2;
        let (left, right) = values.split_at(half - half % LANES);
        return pairwise_sum(left) + pairwise_sum(right);
    }
    let (rows, rest) = values.as_chunks::<LANES>();
    let mut sum = 0.0;
    if let Some((first, rows)) = rows.split_first() {
        let mut lanes = *first;
        for row in rows {
            lanes.iter_mut().zip(row).for_each(|(lane, value)| *lane += value);
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
    }
    rest.iter().fold(sum, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy 2.4.6: `for n in (7, 13, 129, 300, 1000): print(np.sum(1 / np.arange(1, n + 1)), np.sum(np.arange(1, n + 1) * 0.1))`
    #[test]
    fn sums_are_numpys_to_the_bit() {
        let expected = [
            (7, 2.592_857_142_857_142_5, 2.800_000_000_000_000_3),
            (13, 3.180_133_755_133_755, 9.1),
            (129, 5.440_899_030_573_669, 838.5),
            (300, 6.282_663_880_299_504, 4515.0),
            (1000, 7.485_470_860_550_345, 50050.0),
        ];
        for (n, harmonic, tenths) in expected {
            let numbers: Vec<_> = (1..=n).map(f64::from).collect();
            assert_eq!(pairwise_sum(&numbers.iter().map(|i| 1.0 / i).collect::<Vec<_>>()), harmonic, "{n}");
            assert_eq!(pairwise_sum(&numbers.iter().map(|i| i * 0.1).collect::<Vec<_>>()), tenths, "{n}");
        }
        assert_eq!(pairwise_sum(&[]), 0.0);
    }
}
