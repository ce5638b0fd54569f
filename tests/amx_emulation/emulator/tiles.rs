//! The tile registers and what the instructions do to them, after the pseudo-code of Intel's manual.

#![expect(
    unsafe_code,
    reason = "vector instructions, whose flushing and rounding are those of the tile product"
)]

/// Rows of a tile, and bytes of a row, at most.
pub const MAX_ROWS: usize = 16;
pub const MAX_ROW_BYTES: usize = 64;
const TILES: usize = 8;

/// Bytes of the memory that LDTILECFG reads and STTILECFG writes.
pub const CONFIG_BYTES: usize = 64;
/// Where row lengths (two bytes each) and row counts (one byte each) begin in it.
const ROW_BYTES_AT: usize = 16;
const ROWS_AT: usize = 48;

/// A tile; what lies outside its configured rows and columns is zero.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([[u8; MAX_ROW_BYTES]; MAX_ROWS]);

/// All tile state of a thread.
pub struct Tiles {
    /// As LDTILECFG read it; all zero: not configured.
    config: [u8; CONFIG_BYTES],
    tiles: [Tile; TILES],
}

/// Why the processor would have raised a fault.
pub type Fault = &'static str;

impl Tiles {
    /// As at the start of a thread.
    pub const UNCONFIGURED: Self =
        Self { config: [0; CONFIG_BYTES], tiles: [Tile([[0; MAX_ROW_BYTES]; MAX_ROWS]); TILES] };

    /// LDTILECFG.
    pub fn configure(&mut self, config: &[u8; CONFIG_BYTES]) -> Result<(), Fault> {
        *self = Self::UNCONFIGURED;
        match config[0] {
            0 => return Ok(()),
            1 => {}
            _ => return Err("LDTILECFG: #GP, the palette is neither 0 nor 1"),
        }
        if config[1] != 0 {
            return Err("LDTILECFG: start_row is not 0, which is not emulated");
        }
        let reserved = [2..ROW_BYTES_AT, ROW_BYTES_AT + 2 * TILES..ROWS_AT, ROWS_AT + TILES..CONFIG_BYTES];
        if reserved.into_iter().any(|range| config[range].iter().any(|&byte| byte != 0)) {
            return Err("LDTILECFG: #GP, a reserved byte is not zero");
        }
        self.config = *config;
        for tile in 0..TILES {
            let (rows, row_bytes) = self.configured(tile);
            if rows > MAX_ROWS || row_bytes > MAX_ROW_BYTES {
                return Err("LDTILECFG: #GP, more than 16 rows or 64 bytes a row");
            }
            if (rows == 0) != (row_bytes == 0) {
                return Err("LDTILECFG: #GP, rows without columns or columns without rows");
            }
        }
        Ok(())
    }

    /// STTILECFG.
    pub fn config(&self) -> &[u8; CONFIG_BYTES] {
        &self.config
    }

    /// TILERELEASE.
    pub fn release(&mut self) {
        *self = Self::UNCONFIGURED;
    }

    fn configured(&self, tile: usize) -> (usize, usize) {
        let at = ROW_BYTES_AT + 2 * tile;
        let row_bytes = u16::from_le_bytes([self.config[at], self.config[at + 1]]);
        (self.config[ROWS_AT + tile].into(), row_bytes.into())
    }

    /// Rows and bytes a row of a tile that is in use.
    fn shape(&self, tile: usize) -> Result<(usize, usize), Fault> {
        match self.configured(tile) {
            _ if self.config[0] == 0 => Err("#UD, no tiles are configured"),
            (0, _) | (_, 0) => Err("#UD, the tile is not configured"),
            shape => Ok(shape),
        }
    }

    /// Rows and bytes a row of a tile that is loaded, stored or multiplied.
    pub fn shape_in_pairs(&self, tile: usize) -> Result<(usize, usize), Fault> {
        match self.shape(tile)? {
            (_, row_bytes) if row_bytes % 4 != 0 => Err("#UD, a row is not whole pairs"),
            shape => Ok(shape),
        }
    }

    /// TILEZERO.
    pub fn zero(&mut self, tile: usize) -> Result<(), Fault> {
        self.shape(tile)?;
        self.tiles[tile].0 = [[0; MAX_ROW_BYTES]; MAX_ROWS];
        Ok(())
    }

    /// A row, up to its configured length.
    pub fn row(&self, tile: usize, row: usize, row_bytes: usize) -> &[u8] {
        &self.tiles[tile].0[row][..row_bytes]
    }

    /// A row, up to its configured length, for writing.
    pub fn row_mut(&mut self, tile: usize, row: usize, row_bytes: usize) -> &mut [u8] {
        &mut self.tiles[tile].0[row][..row_bytes]
    }

    /// TDPBF16PS.
    ///
    /// # Safety
    /// The processor must have AVX-512 F.
    pub unsafe fn multiply_bf16(&mut self, sum: usize, left: usize, right: usize) -> Result<(), Fault> {
        if sum == left || sum == right || left == right {
            return Err("TDPBF16PS: #UD, two operands are one tile");
        }
        let (shape, left_shape) = (self.shape_in_pairs(sum)?, self.shape_in_pairs(left)?);
        let right_shape = self.shape_in_pairs(right)?;
        let pairs = left_shape.1 / 4;
        if shape.0 != left_shape.0 || shape.1 != right_shape.1 || pairs != right_shape.0 {
            return Err("TDPBF16PS: #UD, the tiles' shapes do not fit");
        }
        let (left, right) = (self.tiles[left], self.tiles[right]);
        for (row, left) in self.tiles[sum].0.iter_mut().zip(&left.0).take(shape.0) {
            // SAFETY: `left` is a row of 64 bytes, `right` 16 of them, and `pairs` at most 16; AVX-512 is the caller's promise.
            unsafe { accumulate_row(row, left, &right, pairs) };
            row[shape.1..].fill(0);
        }
        Ok(())
    }
}

/// Adds one row of the product: fused multiply-adds of even and of odd elements from zero, their sum, then the old value.
///
/// Subnormal inputs count as zero, subnormal results become zero, rounding is to nearest even, as the instruction does
/// whatever MXCSR holds.
///
/// # Safety
/// The processor must have AVX-512 F; `pairs` must be in 1..=16.
unsafe fn accumulate_row(
    sum: &mut [u8; MAX_ROW_BYTES],
    left: &[u8; MAX_ROW_BYTES],
    right: &Tile,
    pairs: usize,
) {
    /// Flush to zero, denormals are zero, nearest even, no exception unmasked.
    static MXCSR: u32 = 0x9FC0;
    let mut saved = 0u32;
    // SAFETY: reads `pairs` dwords of `left` and rows of `right`, one row of `sum`, writes that row and `saved`; MXCSR is
    // put back before the block ends, and every register it changes is declared.
    unsafe {
        std::arch::asm!(
            "stmxcsr [{saved}]",
            "ldmxcsr [{flush}]",
            "vpxord zmm0, zmm0, zmm0",
            "vpxord zmm1, zmm1, zmm1",
            "vpternlogd zmm2, zmm2, zmm2, 0xFF",
            "vpslld zmm2, zmm2, 16",
            "2:",
            "vpbroadcastd zmm3, [{left}]",
            "vmovdqu32 zmm4, [{right}]",
            "vpslld zmm5, zmm3, 16",
            "vpslld zmm6, zmm4, 16",
            "vfmadd231ps zmm0, zmm5, zmm6",
            "vpandd zmm5, zmm3, zmm2",
            "vpandd zmm6, zmm4, zmm2",
            "vfmadd231ps zmm1, zmm5, zmm6",
            "add {left}, 4",
            "add {right}, 64",
            "dec {pairs}",
            "jnz 2b",
            "vaddps zmm0, zmm0, zmm1",
            "vmovups zmm1, [{sum}]",
            "vaddps zmm0, zmm1, zmm0",
            "vmovups [{sum}], zmm0",
            "ldmxcsr [{saved}]",
            saved = in(reg) &raw mut saved,
            flush = in(reg) &raw const MXCSR,
            sum = in(reg) sum.as_mut_ptr(),
            left = inout(reg) left.as_ptr() => _,
            right = inout(reg) right.0.as_ptr() => _,
            pairs = inout(reg) pairs => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
            options(nostack),
        );
    }
}
