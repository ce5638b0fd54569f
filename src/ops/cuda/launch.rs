//! Launching our kernels.

use super::{Cuda, CudaError};
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, LaunchConfig};

/// Threads of every block; the kernels are written for it.
pub(super) const THREADS: u32 = 256;

/// Blocks beyond which threads go over several elements each.
const MOST_BLOCKS: u64 = 1 << 20;

/// A grid of blocks of [`THREADS`] threads.
pub(super) fn grid(x: u32, y: u32, z: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (x, y, z), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// As many blocks as give each of `elements` a thread, as far as that makes sense, for each of `samples`.
pub(super) fn grid_over(elements: u64, samples: usize) -> LaunchConfig {
    let blocks = elements.div_ceil(u64::from(THREADS)).clamp(1, MOST_BLOCKS);
    grid(blocks as u32, samples as u32, 1)
}

impl Cuda {
    /// One of our kernels.
    pub(super) fn function(self, name: &'static str) -> Result<&'static CudaFunction, CudaError> {
        let found = self.engine().functions.get(name);
        found.ok_or_else(|| CudaError::Unsupported { what: format!("there is no kernel {name}") })
    }
}

/// Launches a kernel: `launch!(cuda, "name", grid, argument, …)`, the arguments as the kernel declares them.
macro_rules! launch {
    ($cuda:expr, $name:expr, $grid:expr, $($argument:expr),+ $(,)?) => {{
        use candle_core::cuda_backend::cudarc::driver::PushKernelArg as _;
        let name: &'static str = $name;
        let function = $cuda.function(name)?;
        let mut launch = $cuda.stream().launch_builder(function);
        $crate::ops::cuda::launch::push!(launch, $($argument),+);
        #[expect(unsafe_code, reason = "the compiler cannot compare arguments with a kernel's")]
        // SAFETY: the arguments are those of the kernel of that name, and every caller has checked that what they point to is as
        // large as the kernel's header says.
        let launched = unsafe { launch.launch($grid) };
        launched.map(|_| ()).map_err($crate::ops::cuda::CudaError::driver(name, 0))
    }};
}

/// Adds arguments, each of which lives as long as the launch.
macro_rules! push {
    ($launch:ident, $argument:expr $(, $more:expr)*) => {
        let argument = $argument;
        $launch.arg(&argument);
        $crate::ops::cuda::launch::push!($launch $(, $more)*);
    };
    ($launch:ident) => {};
}

pub(super) use {launch, push};
