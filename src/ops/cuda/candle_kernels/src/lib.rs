//! A stand-in for the crate `candle-kernels`: the names that candle-core 0.11 compiles against, without a kernel behind them.
//!
//! This program takes device memory, streams and cuDNN from candle and launches kernels of its own. candle's kernels would take
//! minutes of `nvcc` and make the program link CUDA's run-time library, without which it would not start. An operation of
//! candle that asks for one of them fails: its module loads and has no function, CUDA's error `NOT_FOUND`, "named symbol not found".

pub mod ffi;

/// A module that has no function; every driver and every GPU takes it.
const NO_FUNCTIONS: &str = ".version 7.0\n.target sm_50\n.address_size 64\n";

/// A file of kernels, in PTX.
pub struct Module {
    id: Id,
}

impl Module {
    /// The module's place in [`ALL_IDS`].
    pub fn index(&self) -> usize {
        self.id as usize
    }

    /// The module's text.
    pub fn ptx(&self) -> &'static str {
        NO_FUNCTIONS
    }
}

macro_rules! modules {
    ($($id:ident $name:ident),*) => {
        /// Which module.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Id {
            $(#[doc = concat!("That of [`", stringify!($name), "`].")] $id,)*
        }

        /// Every module, each at its index.
        pub const ALL_IDS: [Id; [$(Id::$id),*].len()] = [$(Id::$id),*];

        $(#[doc = concat!("The module of candle's file `", stringify!($id), "`.")]
        pub const $name: Module = Module { id: Id::$id };)*
    };
}

modules! {
    Affine AFFINE, Binary BINARY, Cast CAST, Conv CONV, Fill FILL, Indexing INDEXING, Quantized QUANTIZED, Reduce REDUCE,
    Sort SORT, Ternary TERNARY, Unary UNARY
}
