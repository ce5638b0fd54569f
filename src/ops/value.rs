//! How an activation lies in memory.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// Shape of an activation, stored as one flat `f32` buffer: `C` scales, `C` shifts, then `D·H·W·C` raw values,
/// channels last.
///
/// The normalised activation is `leaky_relu(scale[c] · raw + shift[c])`; values that carry no normalisation have
/// scale 1 and shift 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ValueShape {
    /// Depth, height, width (z, y, x) in voxels.
    pub dims: [usize; 3],
    /// Channels.
    pub channels: usize,
}

impl ValueShape {
    /// Voxels of the grid.
    pub fn voxels(&self) -> usize {
        self.dims.iter().product()
    }

    /// Raw values: voxels times channels.
    pub fn data_len(&self) -> usize {
        self.voxels() * self.channels
    }

    /// Floats that the value occupies with its scales and shifts.
    pub fn storage_len(&self) -> usize {
        2 * self.channels + self.data_len()
    }
}

/// How an operator reads one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operand {
    /// Shape of the value.
    pub shape: ValueShape,
    /// Negative slope of the leaky ReLU applied after scale and shift; 1 means no activation.
    pub negative_slope: f32,
}

/// A value in memory, taken apart.
#[derive(Clone, Copy)]
pub(super) struct Activation<'a> {
    pub operand: Operand,
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    /// (D, H, W, C)
    pub raw: &'a [f32],
}

impl Operand {
    /// The activations of a stored value on the CPU, (D, H, W, C) flattened: `leaky_relu(scale · raw + shift)`.
    ///
    /// # Errors
    /// If the tensor holds no value of this shape.
    pub fn activated(&self, value: &Tensor) -> Result<Vec<f64>> {
        let op = "activated";
        let (storage, layout) = value.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("{op}: not on the CPU") };
        let Activation { scale, shift, raw, .. } = self.view(floats(storage, layout, op)?, op)?;
        let slope = f64::from(self.negative_slope);
        let affine = scale.iter().zip(shift).cycle().zip(raw);
        let activated =
            affine.map(|((&scale, &shift), &raw)| f64::from(scale) * f64::from(raw) + f64::from(shift));
        Ok(activated.map(|v| if v < 0.0 { slope * v } else { v }).collect())
    }

    /// Takes a stored value of this shape apart.
    pub(super) fn view<'a>(&self, storage: &'a [f32], op: &str) -> Result<Activation<'a>> {
        let c = self.shape.channels;
        let Some(used) = storage.get(..self.shape.storage_len()) else {
            bail!(
                "{op}: input buffer holds {} floats, {:?} needs {}",
                storage.len(),
                self.shape,
                self.shape.storage_len()
            )
        };
        let (scale, rest) = used.split_at(c);
        let (shift, raw) = rest.split_at(c);
        Ok(Activation { operand: *self, scale, shift, raw })
    }
}

/// The scales, shifts and raw values of an output value, for writing.
pub(super) struct ActivationMut<'a> {
    pub scale: &'a mut [f32],
    pub shift: &'a mut [f32],
    /// (D, H, W, C)
    pub raw: &'a mut [f32],
}

impl ValueShape {
    /// Takes the buffer of an output of this shape apart.
    pub(super) fn view_mut<'a>(&self, storage: &'a mut [f32], op: &str) -> Result<ActivationMut<'a>> {
        let (have, need) = (storage.len(), self.storage_len());
        let Some(used) = storage.get_mut(..need) else {
            bail!("{op}: output buffer holds {have} floats, {self:?} needs {need}")
        };
        let (scale, rest) = used.split_at_mut(self.channels);
        let (shift, raw) = rest.split_at_mut(self.channels);
        Ok(ActivationMut { scale, shift, raw })
    }
}

/// The `f32` elements of a contiguous CPU tensor.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<&'a [f32]> {
    match (storage.as_slice::<f32>(), layout.contiguous_offsets()) {
        (Ok(all), Some((start, end))) => Ok(&all[start..end]),
        _ => bail!("{op}: needs a contiguous float32 tensor"),
    }
}

/// The `f32` elements of a contiguous CPU tensor, for writing.
pub(super) fn floats_mut<'a>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
    op: &str,
) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&mut all[start..end]),
        _ => bail!("{op}: needs a contiguous float32 tensor"),
    }
}
