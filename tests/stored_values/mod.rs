//! Random values as operators store them.

use candle_core::{Device, Tensor};
use pdac_cascade::ops::{Operand, Operator};

/// Reproducible values of order 1.
pub fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A stored value with random scale, shift and raw data, and what a reader should see of it.
pub fn value(operand: Operand, seed: u64) -> (Tensor, Vec<f32>) {
    let c = operand.shape.channels;
    let stored = noise(seed, operand.shape.storage_len());
    let seen = stored[2 * c..].iter().enumerate().map(|(i, &x)| {
        let y = stored[i % c] * x + stored[c + i % c];
        if y >= 0.0 { y } else { y * operand.negative_slope }
    });
    (Tensor::new(stored.as_slice(), &Device::Cpu).unwrap(), seen.collect())
}

/// What an operator makes of stored values, written over `output`.
pub fn computed(operator: &dyn Operator, sources: &[&Tensor], mut output: Vec<f32>) -> Vec<f32> {
    let sources: Vec<Vec<f32>> = sources.iter().map(|s| s.to_vec1().unwrap()).collect();
    let sources: Vec<&[f32]> = sources.iter().map(Vec::as_slice).collect();
    operator.run(&mut output, &sources).unwrap();
    output
}
