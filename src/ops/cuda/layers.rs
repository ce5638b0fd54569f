//! The layers of a network on the GPU: convolution with instance norm, upsampling, the end of a residual block.

use super::algorithms::Choice;
use super::cudnn::{ConvGeometry, ConvMemory, Descriptors};
use super::launch::{grid, grid_over, launch};
use super::memory::{Address, DeviceMemory};
use super::value::{DeviceValue, padded_channels};
use super::{Cuda, CudaError, lock};
use crate::ops::CudaPrecision;
use crate::ops::{InstanceNorm, ValueShape};
use half::f16;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// What workspaces are called in errors.
const WORKSPACE: &str = "workspace of convolutions";

/// Most bytes of workspace that an algorithm may use, unless all need more.
const MOST_WORKSPACE: usize = 256 << 20;

/// Parts of the scratch memory begin at multiples of this.
const ALIGNMENT: usize = 256;

/// Blocks for every multiprocessor that a norm's sums are cut into.
const STRETCHES_PER_PROCESSOR: usize = 8;

/// Fewest voxels of such a stretch.
const SHORTEST_STRETCH: usize = 256;

/// Channels that a block of each of the norm's first two kernels takes.
const CHANNELS_OF_SUMS: usize = 256;
const CHANNELS_OF_FINISH: usize = 32;

impl Cuda {
    /// `f16` or `f32` at the end of a kernel's name.
    pub(super) fn kernel(self, half: &'static str, single: &'static str) -> &'static str {
        match self.precision() {
            CudaPrecision::F16 => half,
            CudaPrecision::F32 => single,
        }
    }

    /// Parameters in the engine's precision.
    pub(super) fn upload_elements(self, values: &[f32]) -> Result<DeviceMemory<u8>, CudaError> {
        let bytes: Vec<u8> = match self.precision() {
            CudaPrecision::F16 => {
                values.par_iter().flat_map_iter(|&v| f16::from_f32(v).to_le_bytes()).collect()
            }
            CudaPrecision::F32 => values.par_iter().flat_map_iter(|v| v.to_le_bytes()).collect(),
        };
        self.upload_parameters(&bytes)
    }
}

/// Elements of so many samples of a value.
pub(super) fn elements(shape: ValueShape, samples: usize) -> usize {
    samples * shape.voxels() * padded_channels(shape.channels)
}

/// So many values, and zeros for the padded channels.
fn padded(values: &[f32]) -> Vec<f32> {
    let mut padded = values.to_vec();
    padded.resize(padded_channels(values.len()), 0.0);
    padded
}

/// A convolution over one source, its filter on the GPU.
struct Convolution {
    geometry: ConvGeometry,
    /// (out, z, y, x, in), channels padded.
    filter: DeviceMemory<u8>,
    /// For each number of samples that it has run with.
    prepared: Mutex<HashMap<usize, Arc<Prepared>>>,
}

struct Prepared {
    descriptors: Mutex<Descriptors>,
    choice: Choice,
}

impl Convolution {
    /// `weight(o, i, tap)` is the weight of output `o` for input `i`, taps in order (z, y, x).
    fn new(
        cuda: Cuda,
        geometry: ConvGeometry,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Result<Self, CudaError> {
        let inputs = padded_channels(geometry.input.channels);
        let taps: usize = geometry.kernel.iter().product();
        let mut filter = vec![0.0; geometry.filter_len()];
        let outputs = filter.par_chunks_exact_mut(taps * inputs).enumerate().take(geometry.output.channels);
        outputs.for_each(|(o, of_output)| {
            for (tap, of_tap) in of_output.chunks_exact_mut(inputs).enumerate() {
                for (i, value) in of_tap.iter_mut().enumerate().take(geometry.input.channels) {
                    *value = weight(o, i, tap);
                }
            }
        });
        Ok(Self { geometry, filter: cuda.upload_elements(&filter)?, prepared: Mutex::default() })
    }

    /// Descriptors and algorithm for so many samples; what was in `y` may be lost.
    fn prepare(
        &self,
        cuda: Cuda,
        samples: usize,
        x: Address,
        y: Address,
    ) -> Result<Arc<Prepared>, CudaError> {
        if let Some(prepared) = lock(&self.prepared).get(&samples) {
            return Ok(Arc::clone(prepared));
        }
        let descriptors = Descriptors::new(&self.geometry, samples, cuda.precision())?;
        let memory =
            ConvMemory { x, filter: self.filter.address(), y, workspace: Address::NULL, workspace_bytes: 0 };
        let choice = choose(cuda, &descriptors, self.geometry.key(samples), memory)?;
        let prepared = Arc::new(Prepared { descriptors: Mutex::new(descriptors), choice });
        lock(&self.prepared).insert(samples, Arc::clone(&prepared));
        Ok(prepared)
    }

    fn run(
        &self,
        cuda: Cuda,
        prepared: &Prepared,
        [x, y, workspace]: [Address; 3],
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let workspace_bytes = prepared.choice.workspace;
        let memory = ConvMemory { x, filter: self.filter.address(), y, workspace, workspace_bytes };
        lock(&prepared.descriptors).run(cuda, &prepared.choice, memory, accumulate)
    }
}

/// The algorithm for a convolution, which is looked for once in a process. What was in `memory.y` is lost.
fn choose(
    cuda: Cuda,
    descriptors: &Descriptors,
    shape: String,
    memory: ConvMemory,
) -> Result<Choice, CudaError> {
    let chosen = lock(&cuda.engine().algorithms).chosen(&shape);
    if let Some(choice) = chosen {
        return Ok(choice);
    }
    let choice = look_for(cuda, descriptors, &shape, memory)?;
    lock(&cuda.engine().algorithms).choose(shape, choice);
    Ok(choice)
}

/// The one remembered, or the fastest of those whose workspace is bounded, or if none is the one that needs the least.
fn look_for(
    cuda: Cuda,
    descriptors: &Descriptors,
    shape: &str,
    memory: ConvMemory,
) -> Result<Choice, CudaError> {
    let remembered = lock(&cuda.engine().algorithms).remembered(shape);
    if let Some(choice) = remembered.filter(|c| c.is_precise(cuda.precision()))
        && let Some(workspace) = descriptors.workspace(cuda, &choice).filter(|&w| w <= MOST_WORKSPACE)
    {
        let choice = choice.with_workspace(workspace);
        match try_once(cuda, descriptors, &choice, memory) {
            Err(error @ CudaError::Cudnn { .. }) => {
                tracing::debug!("{shape}: {choice:?} is forgotten: {error}");
            }
            tried => return tried.map(|()| choice),
        }
    }
    let (workspace, measured) = measure(cuda, descriptors, memory)?;
    let mut choices = measured.unwrap_or_else(|error| {
        tracing::debug!("{shape}: {error}; taking a recommended algorithm");
        vec![]
    });
    let is_fastest = !choices.is_empty() && workspace == MOST_WORKSPACE;
    if choices.is_empty() {
        choices = descriptors.recommended(cuda)?;
        choices.sort_by_key(|choice| choice.workspace);
    }
    let usable = choices.into_iter().find_map(|choice| {
        let workspace = descriptors.workspace(cuda, &choice)?;
        Some(choice.with_workspace(workspace))
    });
    let Some(choice) = usable else {
        let what = format!("cuDNN has no algorithm for the convolution {shape}");
        return Err(CudaError::Unsupported { what });
    };
    tracing::debug!("{shape}: {choice:?}");
    if is_fastest {
        lock(&cuda.engine().algorithms).remember(shape.to_owned(), choice);
    }
    Ok(choice)
}

/// Runs a convolution with an algorithm that was chosen by another process, with memory of its own.
fn try_once(
    cuda: Cuda,
    descriptors: &Descriptors,
    choice: &Choice,
    memory: ConvMemory,
) -> Result<(), CudaError> {
    let workspace = cuda.uninitialised::<u8>(WORKSPACE, choice.workspace)?;
    let memory = ConvMemory { workspace: workspace.address(), workspace_bytes: choice.workspace, ..memory };
    descriptors.run(cuda, choice, memory, false)?;
    cuda.synchronise()
}

/// Times the algorithms with as much workspace as there is, up to the bound: how much that was, and what cuDNN says.
fn measure(
    cuda: Cuda,
    descriptors: &Descriptors,
    memory: ConvMemory,
) -> Result<(usize, Result<Vec<Choice>, CudaError>), CudaError> {
    let workspace = largest_workspace(cuda)?;
    let bytes = workspace.as_ref().map_or(0, DeviceMemory::len);
    let memory = ConvMemory {
        workspace: workspace.as_ref().map_or(Address::NULL, DeviceMemory::address),
        workspace_bytes: bytes,
        ..memory
    };
    let measured = match descriptors.measure(cuda, memory) {
        Err(error) if !matches!(error, CudaError::Cudnn { .. }) => return Err(error),
        measured => measured,
    };
    // The memory is given back before anything else is allocated.
    drop(workspace);
    cuda.synchronise()?;
    Ok((bytes, measured))
}

/// As much memory as there is, up to the bound.
fn largest_workspace(cuda: Cuda) -> Result<Option<DeviceMemory<u8>>, CudaError> {
    let mut bytes = MOST_WORKSPACE;
    while bytes >= 1 << 20 {
        match cuda.uninitialised(WORKSPACE, bytes) {
            Err(error) if error.is_out_of_memory() => bytes /= 2,
            taken => return taken.map(Some),
        }
    }
    Ok(None)
}

/// A convolution over one source, or over the concatenation of two by accumulation, with bias or instance norm.
///
/// The output is activated: readers take it as it is.
pub(in crate::ops) struct CudaConv {
    cuda: Cuda,
    sources: Vec<Convolution>,
    out: ValueShape,
    finish: Finish,
}

/// What follows a convolution. A norm takes any bias out again, so there is either the one or the other.
enum Finish {
    Norm { weight: DeviceMemory<f32>, bias: DeviceMemory<f32>, eps: f64, negative_slope: f32 },
    Bias(DeviceMemory<f32>),
}

/// Kernel and stride (z, y, x) of a convolution.
pub(in crate::ops) struct Window {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
}

impl CudaConv {
    /// `weight(o, i, tap)` is the weight of output `o` for input `i`, counted over the channels of all sources.
    pub fn new(
        cuda: Cuda,
        window: &Window,
        sources: &[ValueShape],
        out: ValueShape,
        bias: &[f32],
        norm: Option<&InstanceNorm>,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Result<Self, CudaError> {
        let mut before = 0;
        let mut convolutions = Vec::with_capacity(sources.len());
        for &input in sources {
            let geometry = ConvGeometry { input, output: out, kernel: window.kernel, stride: window.stride };
            convolutions.push(Convolution::new(cuda, geometry, |o, i, tap| weight(o, before + i, tap))?);
            before += input.channels;
        }
        let finish = match norm {
            Some(norm) => Finish::Norm {
                weight: cuda.upload_parameters(&padded(&norm.weight))?,
                bias: cuda.upload_parameters(&padded(&norm.bias))?,
                eps: norm.eps,
                negative_slope: norm.negative_slope,
            },
            None => Finish::Bias(cuda.upload_parameters(&padded(bias))?),
        };
        Ok(Self { cuda, sources: convolutions, out, finish })
    }

    pub fn run(&self, samples: usize, output: DeviceValue, sources: &[DeviceValue]) -> Result<(), CudaError> {
        let cuda = self.cuda;
        let y = output.with(elements(self.out, samples), "conv3d")?;
        let mut prepared = Vec::with_capacity(sources.len());
        // All before the first runs: measuring overwrites the output.
        for (convolution, source) in self.sources.iter().zip(sources) {
            let x = source.with(elements(convolution.geometry.input, samples), "conv3d")?;
            prepared.push((convolution, x, convolution.prepare(cuda, samples, x, y)?));
        }
        let bytes = prepared.iter().map(|(_, _, p)| p.choice.workspace).max().unwrap_or(0);
        let workspace = cuda.scratch(bytes)?;
        for (i, (convolution, x, prepared)) in prepared.iter().enumerate() {
            convolution.run(cuda, prepared, [*x, y, workspace], i > 0)?;
        }
        let channels = padded_channels(self.out.channels);
        match &self.finish {
            Finish::Norm { weight, bias, eps, negative_slope } => {
                let affine = [weight.address(), bias.address()];
                normalise(cuda, y, self.out, samples, affine, *eps, *negative_slope)
            }
            Finish::Bias(bias) => {
                let eights = (elements(self.out, samples) / 8) as u64;
                let name = cuda.kernel("add_bias_f16", "add_bias_f32");
                launch!(cuda, name, grid_over(eights, 1), y, bias.address(), eights, channels as u32)
            }
        }
    }
}

/// Instance norm and leaky ReLU in place.
fn normalise(
    cuda: Cuda,
    x: Address,
    shape: ValueShape,
    samples: usize,
    [weight, bias]: [Address; 2],
    eps: f64,
    negative_slope: f32,
) -> Result<(), CudaError> {
    let (voxels, channels) = (shape.voxels(), padded_channels(shape.channels));
    let blocks = cuda.description().multiprocessors * STRETCHES_PER_PROCESSOR;
    let stretch = (voxels * samples).div_ceil(blocks.max(1)).max(SHORTEST_STRETCH);
    let stretches = voxels.div_ceil(stretch);
    let sums = samples * stretches * 2 * channels;
    let partial = cuda.scratch((sums + samples * 2 * channels) * size_of::<f32>())?;
    let affine = partial.plus(sums * size_of::<f32>());
    let [voxels_, channels_] = [voxels, channels].map(|n| n as u32);
    let blocks = grid(stretches as u32, channels.div_ceil(CHANNELS_OF_SUMS) as u32, samples as u32);
    let name = cuda.kernel("norm_sums_f16", "norm_sums_f32");
    launch!(cuda, name, blocks, x, partial, voxels_, channels_, stretch as u32)?;
    let blocks = grid(channels.div_ceil(CHANNELS_OF_FINISH) as u32, samples as u32, 1);
    let name = cuda.kernel("norm_finish_f16", "norm_finish_f32");
    launch!(cuda, name, blocks, x, partial, weight, bias, affine, voxels_, channels_, stretches as u32, eps)?;
    let eights = (voxels * channels / 8) as u64;
    let name = cuda.kernel("norm_apply_f16", "norm_apply_f32");
    launch!(cuda, name, grid_over(eights, samples), x, affine, voxels_, channels_, negative_slope)
}

/// A transposed convolution whose kernel equals its stride: a 1×1×1 convolution to all taps, then each to its voxel.
pub(in crate::ops) struct CudaUpsample {
    cuda: Cuda,
    products: Convolution,
    stride: [usize; 3],
    out: ValueShape,
    bias: DeviceMemory<f32>,
}

impl CudaUpsample {
    /// `weight(i, o, tap)` is the weight of input `i` for output `o`, taps in order (z, y, x).
    pub fn new(
        cuda: Cuda,
        stride: [usize; 3],
        input: ValueShape,
        out: ValueShape,
        bias: &[f32],
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Result<Self, CudaError> {
        let channels = padded_channels(out.channels);
        let taps: usize = stride.iter().product();
        let output = ValueShape { dims: input.dims, channels: taps * channels };
        let geometry = ConvGeometry { input, output, kernel: [1; 3], stride: [1; 3] };
        let products = Convolution::new(cuda, geometry, |product, i, _| {
            let (tap, o) = (product / channels, product % channels);
            if o < out.channels { weight(i, o, tap) } else { 0.0 }
        })?;
        Ok(Self { cuda, products, stride, out, bias: cuda.upload_parameters(&padded(bias))? })
    }

    pub fn run(&self, samples: usize, output: DeviceValue, source: DeviceValue) -> Result<(), CudaError> {
        let (cuda, geometry) = (self.cuda, &self.products.geometry);
        let y = output.with(elements(self.out, samples), "transposed_conv3d")?;
        let x = source.with(elements(geometry.input, samples), "transposed_conv3d")?;
        let bytes = elements(geometry.output, samples) * cuda.precision().bytes();
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let prepared = self.products.prepare(cuda, samples, x, cuda.scratch(bytes)?)?;
        let products = cuda.scratch(bytes + prepared.choice.workspace)?;
        self.products.run(cuda, &prepared, [x, products, products.plus(bytes)], false)?;
        let channels = padded_channels(self.out.channels);
        let eights = (self.out.voxels() * channels / 8) as u64;
        let [d, h, w] = geometry.input.dims.map(|n| n as u32);
        let [sz, sy, sx] = self.stride.map(|n| n as u32);
        let name = cuda.kernel("spread_upsampled_f16", "spread_upsampled_f32");
        let blocks = grid_over(eights, samples);
        launch!(cuda, name, blocks, products, y, self.bias.address(), d, h, w, sz, sy, sx, channels as u32)
    }
}

/// `leaky_relu(a + b)` of two values.
pub(in crate::ops) struct CudaResidualAdd {
    pub cuda: Cuda,
    pub shape: ValueShape,
    pub negative_slope: f32,
}

impl CudaResidualAdd {
    pub fn run(
        &self,
        samples: usize,
        output: DeviceValue,
        sources: [DeviceValue; 2],
    ) -> Result<(), CudaError> {
        let count = elements(self.shape, samples);
        let out = output.with(count, "residual_add")?;
        let [a, b] = [sources[0].with(count, "residual_add")?, sources[1].with(count, "residual_add")?];
        let eights = (count / 8) as u64;
        let name = self.cuda.kernel("residual_add_f16", "residual_add_f32");
        launch!(self.cuda, name, grid_over(eights, 1), out, a, b, eights, self.negative_slope)
    }
}
