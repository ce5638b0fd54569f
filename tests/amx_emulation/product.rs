//! TDPBF16PS against a scalar one.

#![expect(unsafe_code, reason = "sets the rounding mode that the instruction must ignore")]

use crate::emulator::{Amx, provide};
use crate::sequences::{Config, GAP, Rows, multiply, release};
use std::arch::asm;

/// bfloat16 and float32 bits of one matrix each, row by row.
struct Case {
    left: Vec<Vec<u16>>,
    /// Row `k` holds the pairs (2k, 2k + 1) of every column.
    right: Vec<Vec<u16>>,
    sum: Vec<Vec<f32>>,
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn fused(a: f32, b: f32, c: f32) -> f32 {
    flushed(flushed(a).mul_add(flushed(b), flushed(c)))
}

fn widened(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

impl Case {
    /// Rows, pairs and columns, filled from a function of a running number.
    fn new(
        [rows, pairs, columns]: [usize; 3],
        mut value: impl FnMut() -> u16,
        mut start: impl FnMut() -> f32,
    ) -> Self {
        Self {
            left: (0..rows).map(|_| (0..2 * pairs).map(|_| value()).collect()).collect(),
            right: (0..pairs).map(|_| (0..2 * columns).map(|_| value()).collect()).collect(),
            sum: (0..rows).map(|_| (0..columns).map(|_| start()).collect()).collect(),
        }
    }

    /// Intel's pseudo-code: even and odd products summed apart from zero, then both, then the old value.
    fn expected(&self, row: usize, column: usize, times: usize) -> f32 {
        (0..times).fold(self.sum[row][column], |old, _| {
            let (mut even, mut odd) = (0.0, 0.0);
            for (k, right) in self.right.iter().enumerate() {
                even = fused(widened(self.left[row][2 * k]), widened(right[2 * column]), even);
                odd = fused(widened(self.left[row][2 * k + 1]), widened(right[2 * column + 1]), odd);
            }
            flushed(flushed(old) + flushed(even + odd))
        })
    }

    /// Sum, left and right with `gap` bytes and a few more between rows, and the configuration of tiles 0, 1 and 2 for them.
    fn matrices(&self, gap: usize) -> ([Rows; 3], Config) {
        let halves = |rows: &[Vec<u16>]| -> Vec<Vec<u8>> {
            rows.iter().map(|row| row.iter().flat_map(|x| x.to_le_bytes()).collect()).collect()
        };
        let sum: Vec<Vec<u8>> =
            self.sum.iter().map(|row| row.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let all = [sum, halves(&self.left), halves(&self.right)];
        let shapes = all.each_ref().map(|rows| (rows.len() as u8, rows[0].len() as u16));
        let [sum, left, right] = all;
        ([Rows::new(&sum, gap + 5), Rows::new(&left, gap), Rows::new(&right, gap + 3)], Config::of(&shapes))
    }

    fn check(&self, gap: usize, times: usize) {
        let ([mut sum, left, right], config) = self.matrices(gap);
        config.load();
        multiply(&mut sum, &left, &right, times);
        release();
        self.compare(&sum, times);
    }

    fn compare(&self, sum: &Rows, times: usize) {
        let columns = self.sum[0].len();
        for row in 0..self.sum.len() {
            for column in 0..columns {
                let got = f32::from_le_bytes(sum.row(row, sum.stride)[4 * column..][..4].try_into().unwrap());
                let expected = self.expected(row, column, times);
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(same, "row {row}, column {column}: {got:e}, expected {expected:e}");
            }
            let gap = &sum.row(row, sum.stride)[4 * columns..];
            assert!(gap.iter().all(|&b| b == GAP), "written behind row {row}: {gap:?}");
        }
    }
}

/// Reproducible bits.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    }
}

/// A bfloat16 with a random sign and fraction and an exponent from `lowest` on, one of `exponents`.
fn bf16(bits: u64, lowest: u64, exponents: u64) -> u16 {
    let exponent = lowest + (bits >> 8) % exponents;
    ((bits & 1) << 15 | exponent << 7 | bits >> 1 & 0x7F) as u16
}

const SHAPES: [[usize; 3]; 8] =
    [[1, 1, 1], [16, 16, 16], [5, 3, 7], [16, 1, 16], [1, 16, 3], [3, 13, 16], [15, 7, 1], [11, 16, 9]];

#[test]
fn every_shape_and_stride_gives_the_sums() {
    if provide() == Amx::Absent {
        return;
    }
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for gap in [0, 1, 64] {
            let (mut values, mut sums) = (random(7 + i as u64), random(70 + i as u64));
            let case = Case::new(
                shape,
                || bf16(values(), 120, 14),
                || f32::from_bits((sums() as u32) & 0x83FF_FFFF | 0x3C00_0000),
            );
            case.check(gap, 1);
            case.check(gap, 3);
        }
    }
}

#[test]
fn subnormals_count_as_zero_and_are_never_made() {
    if provide() == Amx::Absent {
        return;
    }
    for seed in 0..40 {
        let (mut values, mut sums) = (random(100 + seed), random(200 + seed));
        // Products about 2^-126, and old values about there too.
        let small =
            Case::new([7, 5, 11], || bf16(values(), 56, 14), || f32::from_bits(sums() as u32 & 0x81FF_FFFF));
        small.check(4, 2);
        // Subnormal factors beside ordinary ones.
        let mut values = random(300 + seed);
        let mixed = Case::new(
            [7, 5, 11],
            || bf16(values(), 0, 3) ^ if values() & 1 == 0 { 0x3F80 } else { 0 },
            || 0.0,
        );
        mixed.check(4, 1);
    }
}

#[test]
fn infinities_and_nans_go_through() {
    if provide() == Amx::Absent {
        return;
    }
    for seed in 0..20 {
        let (mut values, mut sums) = (random(400 + seed), random(500 + seed));
        let case = Case::new([6, 4, 9], || bf16(values(), 240, 16), || widened(bf16(sums(), 250, 6)));
        case.check(0, 1);
    }
}

#[test]
fn roundings_are_those_of_fused_multiply_adds_in_the_documented_order() {
    if provide() == Amx::Absent {
        return;
    }
    // 1 + 2^-24 is a tie: to even. Two of them one after the other stay 1, their sum does not.
    let (one, tiny) = (0x3F80, 0x3380);
    let case = |right: [[u16; 2]; 3]| Case {
        left: vec![vec![one; 6]],
        right: right.iter().map(|pair| pair.to_vec()).collect(),
        sum: vec![vec![0.0]],
    };
    for (right, expected) in [
        ([[one, 0], [tiny, 0], [tiny, 0]], 1.0),
        ([[tiny, 0], [tiny, 0], [one, 0]], 1.0 + f32::EPSILON),
        ([[one, tiny], [0, tiny], [0, 0]], 1.0 + f32::EPSILON),
    ] {
        assert_eq!(case(right).expected(0, 0, 1), expected);
        case(right).check(0, 1);
    }
}

#[test]
fn the_rounding_mode_of_the_thread_is_neither_used_nor_changed() {
    if provide() == Amx::Absent {
        return;
    }
    let (mut values, mut sums) = (random(1), random(2));
    let case = Case::new([9, 8, 10], || bf16(values(), 120, 14), || widened(bf16(sums(), 120, 14)));
    static UPWARDS: u32 = 0x5F80;
    let (mut before, mut after) = (0u32, 0u32);
    let ([mut sum, left, right], config) = case.matrices(0);
    config.load();
    // SAFETY: the tiles are configured for these matrices; MXCSR is put back before the block ends.
    unsafe {
        asm!(
            "stmxcsr [{before}]",
            "ldmxcsr [{upwards}]",
            "tileloadd tmm0, [{sum} + {sum_stride}]",
            "tileloadd tmm1, [{left} + {left_stride}]",
            "tileloadd tmm2, [{right} + {right_stride}]",
            "tdpbf16ps tmm0, tmm1, tmm2",
            "tilestored [{sum} + {sum_stride}], tmm0",
            "stmxcsr [{after}]",
            "ldmxcsr [{before}]",
            before = in(reg) &raw mut before,
            after = in(reg) &raw mut after,
            upwards = in(reg) &raw const UPWARDS,
            sum = in(reg) sum.bytes.as_mut_ptr(), sum_stride = in(reg) sum.stride,
            left = in(reg) left.bytes.as_ptr(), left_stride = in(reg) left.stride,
            right = in(reg) right.bytes.as_ptr(), right_stride = in(reg) right.stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _,
            options(nostack),
        );
    }
    release();
    assert_eq!(after, UPWARDS, "no flag raised, no bit changed");
    case.compare(&sum, 1);
}
