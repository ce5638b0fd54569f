//! Instruction sequences that the tests run.

#![expect(unsafe_code, reason = "the instructions under test")]

use std::arch::asm;

/// What LDTILECFG reads: 64 bytes, palette 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Config(pub [u8; 64]);

impl Config {
    /// Tiles 0, 1, … of so many rows and bytes a row.
    pub fn of(shapes: &[(u8, u16)]) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (tile, (rows, row_bytes)) in shapes.iter().enumerate() {
            bytes[16 + 2 * tile..18 + 2 * tile].copy_from_slice(&row_bytes.to_le_bytes());
            bytes[48 + tile] = *rows;
        }
        Self(bytes)
    }

    pub fn load(&self) {
        // SAFETY: reads 64 bytes; whoever calls this has asked for AMX.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack)) };
    }

    /// The configuration in force.
    pub fn stored() -> Self {
        let mut config = Self([0xAA; 64]);
        // SAFETY: writes 64 bytes.
        unsafe { asm!("sttilecfg [{}]", in(reg) &raw mut config, options(nostack)) };
        config
    }
}

pub fn release() {
    // SAFETY: clears the tiles, which no Rust value lives in.
    unsafe { asm!("tilerelease", options(nostack)) };
}

/// A matrix in memory whose rows are further apart than they are long.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    pub bytes: Vec<u8>,
    pub stride: usize,
}

/// Fills the gaps between rows.
pub const GAP: u8 = 0x5A;

impl Rows {
    /// Lays rows of bytes out with `gap` bytes after each.
    pub fn new(rows: &[Vec<u8>], gap: usize) -> Self {
        let bytes = rows.iter().flat_map(|row| row.iter().copied().chain(vec![GAP; gap])).collect();
        Self { bytes, stride: rows[0].len() + gap }
    }

    pub fn row(&self, row: usize, len: usize) -> &[u8] {
        &self.bytes[row * self.stride..][..len]
    }
}

/// Loads all three, adds `left · right` to the sum `times` times and stores it: tiles 0, 1 and 2.
pub fn multiply(sum: &mut Rows, left: &Rows, right: &Rows, times: usize) {
    // SAFETY: the tiles are configured by the caller with the shapes of these matrices.
    unsafe {
        asm!(
            "tileloadd tmm0, [{sum} + {sum_stride}]",
            "tileloadd tmm1, [{left} + {left_stride}]",
            "tileloaddt1 tmm2, [{right} + {right_stride}]",
            "2:",
            "tdpbf16ps tmm0, tmm1, tmm2",
            "dec {times}",
            "jnz 2b",
            "tilestored [{sum} + {sum_stride}], tmm0",
            sum = in(reg) sum.bytes.as_mut_ptr(), sum_stride = in(reg) sum.stride,
            left = in(reg) left.bytes.as_ptr(), left_stride = in(reg) left.stride,
            right = in(reg) right.bytes.as_ptr(), right_stride = in(reg) right.stride,
            times = inout(reg) times => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _,
            options(nostack),
        );
    }
}
