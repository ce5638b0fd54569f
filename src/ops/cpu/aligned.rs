//! Float buffers that begin on a cache line.
//!
//! A vector load that crosses a cache line costs two; kernels that load two vectors of weights per step lose a
//! quarter of their speed to that.

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; Line::LEN]);

impl Line {
    const LEN: usize = 16;
}

/// A growable buffer of floats, aligned to 64 bytes.
#[derive(Default)]
pub(super) struct AlignedFloats {
    lines: Vec<Line>,
}

impl AlignedFloats {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0.0; Line::LEN]); len.div_ceil(Line::LEN)] }
    }

    /// The first `len` floats, whatever they hold; grown if there are fewer.
    pub fn first(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(Line::LEN);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0.0; Line::LEN]));
        }
        &mut self.as_mut_slice()[..len]
    }

    /// All floats, up to a whole number of cache lines.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: a line is sixteen floats without padding, and the lines of a vector are consecutive.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * Line::LEN) }
    }

    /// All floats, up to a whole number of cache lines.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`; the borrow is unique.
        unsafe {
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * Line::LEN)
        }
    }

    /// All of the buffer as 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    pub fn as_halves(&self) -> &[u16] {
        // SAFETY: a line is thirty-two 16-bit numbers without padding; any bits are one.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), 2 * self.lines.len() * Line::LEN) }
    }

    /// All of the buffer as 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    pub fn as_mut_halves(&mut self) -> &mut [u16] {
        // SAFETY: as in `as_halves`, and any 16-bit numbers are floats; the borrow is unique.
        unsafe {
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 2 * self.lines.len() * Line::LEN)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_begin_on_a_cache_line_and_survive_growth() {
        let mut floats = AlignedFloats::zeros(3);
        floats.first(3).copy_from_slice(&[1.0, 2.0, 3.0]);
        assert_eq!(floats.first(100)[..3], [1.0, 2.0, 3.0]);
        assert_eq!(floats.as_slice().len(), 112);
        assert_eq!(floats.as_slice().as_ptr() as usize % 64, 0);
    }
}
