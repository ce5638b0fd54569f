//! A voxel array together with its geometry.

use super::geometry::Geometry;
use ndarray::Array3;

/// A scalar volume: a (z, y, x) array and where it lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume<T> {
    /// Voxels, (z, y, x), standard (C) layout.
    pub data: Array3<T>,
    /// Where they lie; `geometry.shape` equals the array's shape.
    pub geometry: Geometry,
}

impl<T> Volume<T> {
    /// A volume of these voxels on this grid.
    ///
    /// # Panics
    /// If the shapes differ, which is a programming error.
    pub fn new(data: Array3<T>, geometry: Geometry) -> Self {
        assert_eq!(data.shape(), geometry.shape, "array and geometry differ in shape");
        Self { data, geometry }
    }
}

macro_rules! voxels {
    ($($variant:ident $type:ty, $name:literal, $to_f32:expr;)*) => {
        /// Voxels in the element type that their file stores.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Voxels {
            $(#[doc = concat!("`", stringify!($type), "` elements.")] $variant(Array3<$type>),)*
        }

        impl Voxels {
            /// Name of the element type as numpy spells it (`int16`, `float32`, …).
            pub fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// Shape (z, y, x).
            pub fn shape(&self) -> &[usize] {
                match self { $(Self::$variant(a) => a.shape(),)* }
            }

            /// The values as `f32`, rounded to nearest where they do not fit exactly.
            pub fn into_f32(self) -> Array3<f32> {
                match self { $(Self::$variant(a) => $to_f32(a),)* }
            }

            /// The elements in C order as little-endian bytes.
            pub fn to_le_bytes(&self) -> Vec<u8> {
                match self { $(Self::$variant(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),)* }
            }
        }

        $(impl From<Array3<$type>> for Voxels {
            fn from(array: Array3<$type>) -> Self {
                Self::$variant(array)
            }
        })*
    };
}

voxels! {
    I8 i8, "int8", |a: Array3<i8>| a.mapv(f32::from);
    U8 u8, "uint8", |a: Array3<u8>| a.mapv(f32::from);
    I16 i16, "int16", |a: Array3<i16>| a.mapv(f32::from);
    U16 u16, "uint16", |a: Array3<u16>| a.mapv(f32::from);
    I32 i32, "int32", |a: Array3<i32>| a.mapv(|v| v as f32);
    U32 u32, "uint32", |a: Array3<u32>| a.mapv(|v| v as f32);
    I64 i64, "int64", |a: Array3<i64>| a.mapv(|v| v as f32);
    U64 u64, "uint64", |a: Array3<u64>| a.mapv(|v| v as f32);
    F32 f32, "float32", |a: Array3<f32>| a;
    F64 f64, "float64", |a: Array3<f64>| a.mapv(|v| v as f32);
}
