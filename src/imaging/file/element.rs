//! The ten element types, and how their bytes become arrays.

use super::super::Voxels;
use super::source::Shortfall;
use ndarray::Array3;
use std::io::Read;

/// The byte order of elements in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// A type that a voxel may have; implemented for the ten number types of [`Voxels`], and closed.
pub trait Element: Copy + sealed::Sealed + 'static {
    /// The type as a value.
    const TYPE: ElementType;
    /// Appends the elements in `bytes`, whose length is a multiple of the element's size.
    fn append(bytes: &[u8], order: ByteOrder, to: &mut Vec<Self>);
    /// Appends the bytes of `elements`, little-endian.
    fn append_le_bytes(elements: &[Self], to: &mut Vec<u8>);
    /// `value` as an element, fractions cut off in whole types; `None` if a whole type cannot hold it.
    fn from_number(value: f64) -> Option<Self>;
    /// The element as a number, rounded to nearest where 64 bits are too many.
    fn to_number(self) -> f64;
}

mod sealed {
    pub trait Sealed {}
}

/// Bytes converted at a time: few enough to stay in cache, a multiple of every element's size.
const CHUNK: usize = 1 << 16;

macro_rules! element_types {
    ($($variant:ident $type:ident $float:literal $met:literal;)*) => {
        /// The type of an image's elements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ElementType {
            $(#[doc = concat!("`", stringify!($type), "`.")] $variant,)*
        }

        impl ElementType {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Bytes of one element.
            pub fn bytes(self) -> usize {
                match self { $(Self::$variant => size_of::<$type>(),)* }
            }

            /// MetaImage's name for the type (`MET_SHORT`, …).
            pub fn met_name(self) -> &'static str {
                match self { $(Self::$variant => $met,)* }
            }

            /// The next elements of `source` as an array of this type.
            ///
            /// `sized` says that the source is known to be able to hold them all, so that memory may be taken at once.
            pub(crate) fn read(
                self,
                source: &mut dyn Read,
                order: ByteOrder,
                shape: [usize; 3],
                sized: bool,
            ) -> Result<Voxels, Shortfall> {
                match self {
                    $(Self::$variant => read_array::<$type>(source, order, shape, sized).map(Voxels::$variant),)*
                }
            }

            /// The next numbers, one an element, as an array of this type.
            pub(crate) fn collect(
                self,
                numbers: &mut dyn Iterator<Item = Result<f64, String>>,
                shape: [usize; 3],
            ) -> Result<Voxels, String> {
                match self { $(Self::$variant => collect_array::<$type>(numbers, shape).map(Voxels::$variant),)* }
            }
        }

        $(
            impl sealed::Sealed for $type {}

            impl Element for $type {
                const TYPE: ElementType = ElementType::$variant;

                fn append(bytes: &[u8], order: ByteOrder, to: &mut Vec<Self>) {
                    let (elements, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
                    match order {
                        ByteOrder::Little => to.extend(elements.iter().map(|&b| Self::from_le_bytes(b))),
                        ByteOrder::Big => to.extend(elements.iter().map(|&b| Self::from_be_bytes(b))),
                    }
                }

                fn append_le_bytes(elements: &[Self], to: &mut Vec<u8>) {
                    to.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
                }

                fn from_number(value: f64) -> Option<Self> {
                    let element = value as Self;
                    ($float || element as f64 == value.trunc()).then_some(element)
                }

                fn to_number(self) -> f64 {
                    self as f64
                }
            }
        )*

        /// Runs an expression on the array inside a [`Voxels`], whatever its element type.
        macro_rules! with_array {
            ($voxels:expr, $array:ident => $body:expr) => {
                match $voxels { $($crate::imaging::Voxels::$variant($array) => $body,)* }
            };
        }
        pub(crate) use with_array;
    };
}

element_types! {
    I8 i8 false "MET_CHAR";
    U8 u8 false "MET_UCHAR";
    I16 i16 false "MET_SHORT";
    U16 u16 false "MET_USHORT";
    I32 i32 false "MET_INT";
    U32 u32 false "MET_UINT";
    I64 i64 false "MET_LONG_LONG";
    U64 u64 false "MET_ULONG_LONG";
    F32 f32 true "MET_FLOAT";
    F64 f64 true "MET_DOUBLE";
}

/// Reads and converts chunk by chunk: the file's bytes are never all in memory beside the array.
fn read_array<T: Element>(
    source: &mut dyn Read,
    order: ByteOrder,
    shape: [usize; 3],
    sized: bool,
) -> Result<Array3<T>, Shortfall> {
    let count = shape.iter().product::<usize>();
    let mut elements = Vec::new();
    if sized {
        elements.try_reserve_exact(count).map_err(|_| Shortfall::Memory)?;
    }
    let mut chunk = vec![0; CHUNK];
    let (total, mut got) = (count * size_of::<T>(), 0);
    while got < total {
        let wanted = CHUNK.min(total - got);
        let bytes = &mut chunk[..wanted];
        fill(source, bytes).map_err(|shortfall| shortfall.after(got as u64))?;
        elements.try_reserve(wanted / size_of::<T>()).map_err(|_| Shortfall::Memory)?;
        T::append(bytes, order, &mut elements);
        got += wanted;
    }
    Array3::from_shape_vec(shape, elements).map_err(|_| Shortfall::Ended { got: got as u64 })
}

fn fill(source: &mut dyn Read, bytes: &mut [u8]) -> Result<(), Shortfall> {
    let mut got = 0;
    while got < bytes.len() {
        match source.read(&mut bytes[got..]) {
            Ok(0) => return Err(Shortfall::Ended { got: got as u64 }),
            Ok(n) => got += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Shortfall::Broken { got: got as u64, error }),
        }
    }
    Ok(())
}

fn collect_array<T: Element>(
    numbers: &mut dyn Iterator<Item = Result<f64, String>>,
    shape: [usize; 3],
) -> Result<Array3<T>, String> {
    let count = shape.iter().product::<usize>();
    let mut elements = Vec::new();
    elements.try_reserve_exact(count).map_err(|error| error.to_string())?;
    for number in numbers.take(count) {
        let number = number?;
        let element = T::from_number(number).ok_or_else(|| {
            format!("voxel {} is {number}, which {} cannot hold", elements.len(), T::TYPE.met_name())
        })?;
        elements.push(element);
    }
    let got = elements.len();
    Array3::from_shape_vec(shape, elements).map_err(|_| format!("the file has {got} voxels, needs {count}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_byte_orders_read_what_was_written(values in prop::collection::vec(any::<i32>(), 1..200)) {
            let shape = [values.len(), 1, 1];
            let little = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
            let big = values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<_>>();
            let expected = Voxels::from(Array3::from_shape_vec(shape, values).unwrap());
            for (bytes, order) in [(little, ByteOrder::Little), (big, ByteOrder::Big)] {
                prop_assert_eq!(&ElementType::I32.read(&mut bytes.as_slice(), order, shape, false).unwrap(), &expected);
            }
        }
    }

    #[test]
    fn chunks_join_without_a_seam() {
        let values = (0..100_000u32).map(f64::from).collect::<Vec<_>>();
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let voxels =
            ElementType::F64.read(&mut bytes.as_slice(), ByteOrder::Little, [10, 100, 100], true).unwrap();
        assert_eq!(voxels, Array3::from_shape_vec([10, 100, 100], values).unwrap().into());
    }

    #[test]
    fn a_source_that_ends_early_says_how_far_it_came() {
        let bytes = vec![0; CHUNK + 5];
        let error =
            ElementType::U8.read(&mut bytes.as_slice(), ByteOrder::Little, [1, 2, CHUNK], true).unwrap_err();
        assert!(matches!(error, Shortfall::Ended { got } if got == CHUNK as u64 + 5), "{error:?}");
    }

    #[test]
    fn numbers_lose_their_fraction_but_never_their_size() {
        assert_eq!(i16::from_number(-3.7), Some(-3));
        assert_eq!(i16::from_number(32768.0), None);
        assert_eq!(u8::from_number(-1.0), None);
        assert_eq!(u8::from_number(f64::NAN), None);
        assert_eq!(f32::from_number(0.1), Some(0.1));
    }
}
