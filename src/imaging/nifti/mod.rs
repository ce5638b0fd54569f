//! NIfTI-1 (`.nii`, `.hdr` with `.img`, each also gzipped), read as ITK 5.4 reads it.
//!
//! The `nifti` crate parses the header. The rest is done here: the crate believes sizes before it has looked at the
//! file, rescales in the stored element type where ITK gives `float`, and has RAS affines where ITK has LPS cosines.
//!
//! Unlike ITK, which reads all of these as something: data that end early, a spacing of 0 (ITK: 1 mm) and an image
//! without voxels along an axis (ITK: one) are refused. NIfTI-2 is refused as in ITK, and so are vector intents. A header
//! without NIfTI's magic is an Analyze 7.5 one, with identity direction and origin 0, as in ITK.

mod orientation;

use super::file::element::{ByteOrder, ElementType};
use super::file::source::{self, check_ratio, check_sum, is_gzip, too_few};
use super::file::{DeclaredGrid, Image, check_memory};
use super::{ImageError, MemoryGauge, Voxels};
use nifti::{Endianness, NiftiHeader, NiftiType};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

/// Bytes between header and voxels, at most; extensions are kilobytes.
const MAX_SKIP: u64 = 1 << 26;

/// Bytes of a NIfTI-1 header.
const HEADER_BYTES: usize = 348;

/// The scalar 3-D image in a NIfTI-1 file, or in a pair of which either file is named.
///
/// # Errors
/// As [`super::file::read_image`].
pub fn read(path: &Path, memory: MemoryGauge) -> Result<Image, ImageError> {
    let open = |path: &Path| source::open(path).map_err(|error| ImageError::io(path, error));
    let Some(pair) = Pair::of(path)? else {
        let (source, length) = open(path)?;
        return read_single(path, source, length, memory);
    };
    let (mut source, _) = open(&pair.header)?;
    let mut stream = inflate_if_gzip(&pair.header, &mut source)?.0;
    let header = Header::read(&pair.header, &mut *stream)?;
    let (mut source, length) = open(&pair.voxels)?;
    let (mut stream, compressed) = inflate_if_gzip(&pair.voxels, &mut source)?;
    let skip = header.offset;
    header.read_image(&pair.voxels, &mut *stream, &Data { length, compressed, skip, read: 0, memory })
}

/// The scalar 3-D image in the bytes of a `.nii` or `.nii.gz` file; `path` is for messages only.
///
/// # Errors
/// As [`super::file::read_image`].
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Image, ImageError> {
    read_single(path, bytes, bytes.len() as u64, MemoryGauge::UNLIMITED)
}

fn read_single(
    path: &Path,
    mut source: impl BufRead,
    length: u64,
    memory: MemoryGauge,
) -> Result<Image, ImageError> {
    let (mut stream, compressed) = inflate_if_gzip(path, &mut source)?;
    let header = Header::read(path, &mut *stream)?;
    let read = HEADER_BYTES as u64;
    let skip = header.offset.saturating_sub(read);
    header.read_image(path, &mut *stream, &Data { length, compressed, skip, read, memory })
}

/// The bytes of a file, and whether it is gzipped; its first bytes tell, not its name.
fn inflate_if_gzip<'a>(
    path: &Path,
    source: &'a mut impl BufRead,
) -> Result<(Box<dyn Read + 'a>, bool), ImageError> {
    let io = |error| ImageError::io(path, error);
    let compressed = is_gzip(source).map_err(io)?;
    let stream = if compressed { source::inflate(source).map_err(io)? } else { Box::new(source) };
    Ok((stream, compressed))
}

/// The two files of an image.
struct Pair {
    header: PathBuf,
    voxels: PathBuf,
}

impl Pair {
    /// The pair that `path` is of, by its name; `None` for a single file.
    fn of(path: &Path) -> Result<Option<Self>, ImageError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let zipped = plain.len() < name.len();
        let is = |ending: &str| plain.to_ascii_lowercase().ends_with(ending);
        let stem = plain.get(..plain.len().saturating_sub(4)).unwrap_or_default();
        // Gzipped files go with gzipped ones where there are both.
        let sibling = |ending: &str| {
            let names = [format!("{stem}.{ending}"), format!("{stem}.{ending}.gz")];
            let paths = names.map(|name| path.with_file_name(name));
            let [first, second] = if zipped { [&paths[1], &paths[0]] } else { [&paths[0], &paths[1]] };
            [first, second].into_iter().find(|path| path.exists()).cloned().ok_or_else(|| {
                let what = format!(
                    "the other file of the pair is missing, neither {} nor {} exists",
                    first.display(),
                    second.display()
                );
                ImageError::io(path, io::Error::new(io::ErrorKind::NotFound, what))
            })
        };
        if is(".hdr") {
            Ok(Some(Self { header: path.to_owned(), voxels: sibling("img")? }))
        } else if is(".img") {
            Ok(Some(Self { header: sibling("hdr")?, voxels: path.to_owned() }))
        } else {
            Ok(None)
        }
    }
}

/// Where the voxels of a file are.
struct Data {
    /// Bytes of the file, compressed or not.
    length: u64,
    compressed: bool,
    /// Bytes to pass over.
    skip: u64,
    /// Bytes that have been read.
    read: u64,
    memory: MemoryGauge,
}

/// A header that has been found to be of a scalar 3-D image.
struct Header {
    raw: NiftiHeader,
    /// Whether the header had NIfTI's magic; Analyze 7.5's has none.
    is_nifti: bool,
    element: ElementType,
    /// First byte of the voxels.
    offset: u64,
}

impl Header {
    /// The header at the start of a stream.
    fn read(path: &Path, stream: &mut dyn Read) -> Result<Self, ImageError> {
        let mut bytes = Vec::new();
        let header = stream.take(HEADER_BYTES as u64).read_to_end(&mut bytes);
        if let Err(error) = header {
            return Err(ImageError::malformed(
                path,
                format!("the header breaks off after {} bytes: {error}", bytes.len()),
            ));
        }
        let got = bytes.len();
        let bytes = <&mut [u8; HEADER_BYTES]>::try_from(bytes.as_mut_slice()).map_err(|_| {
            ImageError::malformed(path, format!("the header has {got} bytes, needs {HEADER_BYTES}"))
        })?;
        Self::parse(path, bytes)
    }

    fn parse(path: &Path, bytes: &mut [u8; HEADER_BYTES]) -> Result<Self, ImageError> {
        let (size, magic) = ([bytes[0], bytes[1], bytes[2], bytes[3]], &mut bytes[344..]);
        let is_size = |n: i32| size == n.to_le_bytes() || size == n.to_be_bytes();
        if is_size(540) {
            return Err(ImageError::unsupported(path, "is NIfTI-2; only NIfTI-1 is accepted"));
        }
        let is_nifti = magic == b"n+1\0" || magic == b"ni1\0";
        if !is_nifti {
            if !is_size(HEADER_BYTES as i32) {
                let what = format!("has neither NIfTI's magic nor Analyze's header size {HEADER_BYTES}");
                return Err(ImageError::malformed(path, what));
            }
            // The crate takes no Analyze header, whose fields are the same as far as they are used below.
            magic.copy_from_slice(b"ni1\0");
        }
        let raw = NiftiHeader::from_reader(bytes.as_slice())
            .map_err(|error| ImageError::malformed(path, format!("the header cannot be read: {error}")))?;
        check_dimensions(path, &raw)?;
        if is_nifti && (1004..=1007).contains(&raw.intent_code) {
            let what = format!(
                "has intent code {} (vectors or matrices); only scalar 3-D images are accepted",
                raw.intent_code
            );
            return Err(ImageError::unsupported(path, what));
        }
        let offset = if raw.vox_offset.is_finite() { raw.vox_offset.max(0.0) as u64 } else { 0 };
        Ok(Self { element: element(path, &raw)?, is_nifti, offset, raw })
    }

    /// The image whose voxels are in `stream`; `path` is its file.
    fn read_image(&self, path: &Path, stream: &mut dyn Read, data: &Data) -> Result<Image, ImageError> {
        let (geometry, bytes) = self.grid(path)?.check(path, self.element.bytes())?;
        check_memory(path, &geometry, self.element.bytes(), data.memory)?;
        let before = data.read.saturating_add(data.skip);
        if data.compressed {
            check_ratio(path, data.length, bytes)?;
        } else if data.length.saturating_sub(before) < bytes {
            return Err(too_few(path, data.length.saturating_sub(before), bytes));
        }
        if data.skip > MAX_SKIP {
            let what = format!(
                "the voxels begin {} bytes behind the header, expected at most {MAX_SKIP}",
                data.skip
            );
            return Err(ImageError::malformed(path, what));
        }
        let skipped = io::copy(&mut stream.take(data.skip), &mut io::sink()).map_err(|error| {
            ImageError::malformed(path, format!("the bytes before the voxels cannot be read: {error}"))
        })?;
        if skipped < data.skip {
            return Err(too_few(path, 0, bytes));
        }
        let order = if self.raw.endianness == Endianness::Big { ByteOrder::Big } else { ByteOrder::Little };
        let voxels = self.element.read(stream, order, geometry.shape, true);
        let voxels = voxels.map_err(|shortfall| shortfall.about(path, bytes))?;
        if data.compressed {
            check_sum(path, stream)?;
        }
        Ok(Image { voxels: self.rescale(without_nonfinite(voxels)), geometry })
    }

    fn grid(&self, path: &Path) -> Result<DeclaredGrid, ImageError> {
        let [_, x, y, z, ..] = self.raw.dim;
        let [_, dx, dy, dz, ..] = self.raw.pixdim;
        let millimetres = match self.raw.xyzt_units & 7 {
            1 if self.is_nifti => 1e3,
            3 if self.is_nifti => 1e-3,
            _ => 1.0,
        };
        let (origin, direction) = orientation::lps(path, &self.raw, self.is_nifti)?;
        Ok(DeclaredGrid {
            size: [x, y, z].map(u64::from),
            spacing: [dx, dy, dz].map(|d| f64::from(d) * millimetres),
            origin: origin.map(|o| o * millimetres),
            direction,
        })
    }

    /// Slope and intercept applied as ITK does: in double precision to whole numbers turned `float`, which stay `float`.
    fn rescale(&self, voxels: Voxels) -> Voxels {
        let finite = |value: f32| if value.is_finite() { f64::from(value) } else { 0.0 };
        let slope =
            Some(finite(self.raw.scl_slope)).filter(|slope| slope.abs() >= f64::EPSILON).unwrap_or(1.0);
        let intercept = finite(self.raw.scl_inter);
        let changes = (slope - 1.0).abs() > f64::EPSILON || intercept.abs() > f64::EPSILON;
        if !self.is_nifti || !changes {
            return voxels;
        }
        match voxels {
            Voxels::F64(mut array) => {
                array.mapv_inplace(|value| value * slope + intercept);
                Voxels::F64(array)
            }
            voxels => {
                let mut array = voxels.into_f32();
                array.mapv_inplace(|value| (f64::from(value) * slope + intercept) as f32);
                Voxels::F32(array)
            }
        }
    }
}

/// Voxels with 0 for NaN and the infinities, as niftilib has it.
fn without_nonfinite(mut voxels: Voxels) -> Voxels {
    match &mut voxels {
        Voxels::F32(array) => array.mapv_inplace(|value| if value.is_finite() { value } else { 0.0 }),
        Voxels::F64(array) => array.mapv_inplace(|value| if value.is_finite() { value } else { 0.0 }),
        _ => {}
    }
    voxels
}

/// Refuses all but three dimensions; further ones may be there if they are 1, or not positive, which ITK takes for 1.
fn check_dimensions(path: &Path, raw: &NiftiHeader) -> Result<(), ImageError> {
    // The crate has unsigned dimensions where the format has signed ones.
    let dim = raw.dim.map(|n| n as i16);
    let count = match dim[0] {
        count @ 1..=7 => count as usize,
        other => return Err(ImageError::malformed(path, format!("dim[0] is {other}, must be 1 to 7"))),
    };
    let dimensions = (4..=count).rev().find(|&axis| dim[axis] > 1).unwrap_or(count.min(3));
    if dimensions != 3 {
        let sizes = dim[1..=dimensions].iter().map(i16::to_string).collect::<Vec<_>>().join(" ");
        let what = format!("is a {dimensions}-D image ({sizes} voxels); only scalar 3-D images are accepted");
        return Err(ImageError::unsupported(path, what));
    }
    match (1..=3).find(|&axis| dim[axis] < 0) {
        Some(axis) => {
            Err(ImageError::malformed(path, format!("dim[{axis}] is {}, must be positive", dim[axis])))
        }
        None => Ok(()),
    }
}

fn element(path: &Path, raw: &NiftiHeader) -> Result<ElementType, ImageError> {
    let code = raw.datatype;
    let data_type = raw
        .data_type()
        .map_err(|_| ImageError::malformed(path, format!("datatype is {code}, which is no element type")))?;
    Ok(match data_type {
        NiftiType::Int8 => ElementType::I8,
        NiftiType::Uint8 => ElementType::U8,
        NiftiType::Int16 => ElementType::I16,
        NiftiType::Uint16 => ElementType::U16,
        NiftiType::Int32 => ElementType::I32,
        NiftiType::Uint32 => ElementType::U32,
        NiftiType::Int64 => ElementType::I64,
        NiftiType::Uint64 => ElementType::U64,
        NiftiType::Float32 => ElementType::F32,
        NiftiType::Float64 => ElementType::F64,
        NiftiType::Rgb24 | NiftiType::Rgba32 => {
            let what = format!("has colour voxels (datatype {code}); only scalar 3-D images are accepted");
            return Err(ImageError::unsupported(path, what));
        }
        NiftiType::Complex64 | NiftiType::Complex128 | NiftiType::Complex256 => {
            let what = format!("has complex voxels (datatype {code}); only scalar 3-D images are accepted");
            return Err(ImageError::unsupported(path, what));
        }
        NiftiType::Float128 => {
            let what = "has 128-bit voxels (datatype 1536); numbers of at most 64 bits are accepted";
            return Err(ImageError::unsupported(path, what));
        }
    })
}
