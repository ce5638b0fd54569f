//! The text at the start of a MetaImage.

use super::super::ImageError;
use super::super::file::DeclaredGrid;
use super::super::file::element::{ByteOrder, ElementType};
use super::super::geometry::IDENTITY;
use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::Path;

/// Everything in a header that matters to a scalar 3-D image.
pub(super) struct Header {
    pub(super) grid: DeclaredGrid,
    pub(super) element: ElementType,
    pub(super) order: ByteOrder,
    /// Voxels as text.
    pub(super) ascii: bool,
    pub(super) compressed: bool,
    pub(super) compressed_size: Option<u64>,
    /// Where voxels start in each data file.
    pub(super) start: Start,
    /// The value of `ElementDataFile`.
    pub(super) data_file: String,
}

/// `HeaderSize`: where voxels start in a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// That many bytes from the file's beginning; from the header's end where voxels follow it and this is 0.
    At(u64),
    /// At the last bytes of the file, as many as are needed.
    FromEnd,
}

/// Longest header that is searched for `ElementDataFile`.
const LONGEST: u64 = 1 << 20;

/// The header at the start of `source`, which is left at the first byte behind it.
///
/// Lines are `key = value` or `key: value`; a key is known in its exact case only, the last of two equal ones counts,
/// and lines that are neither are passed over (MetaIO, `MET_Read`).
pub(super) fn read(path: &Path, source: &mut impl BufRead) -> Result<Header, ImageError> {
    let mut fields = Fields { path, values: HashMap::new() };
    let mut left = LONGEST;
    let mut line = Vec::new();
    while !fields.values.contains_key("ElementDataFile") {
        line.clear();
        let got =
            source.by_ref().take(left).read_until(b'\n', &mut line).map_err(|e| ImageError::io(path, e))?;
        if got == 0 {
            return Err(fields.missing("ElementDataFile"));
        }
        left -= got as u64;
        fields.add(&line);
    }
    fields.into_header()
}

struct Fields<'a> {
    path: &'a Path,
    values: HashMap<String, String>,
}

impl Fields<'_> {
    fn add(&mut self, line: &[u8]) {
        let Some(separator) = line.iter().position(|byte| matches!(byte, b'=' | b':')) else { return };
        let (key, value) = line.split_at(separator);
        let value = String::from_utf8_lossy(value);
        let value = value.trim_start_matches(['=', ':', ' ', '\t']).trim_end();
        if let Ok(key) = std::str::from_utf8(key) {
            self.values.insert(key.trim().to_owned(), value.to_owned());
        }
    }

    fn into_header(self) -> Result<Header, ImageError> {
        let size = self.size()?;
        let element = self.element()?;
        let channels = self.whole("ElementNumberOfChannels")?.unwrap_or(1);
        if channels != 1 {
            return Err(
                self.unsupported(&format!("has {channels} values a voxel (a vector or colour image)"))
            );
        }
        let compressed_size = match self.whole("CompressedDataSize")? {
            Some(bytes) => u64::try_from(bytes).ok().filter(|&bytes| bytes > 0),
            None => None,
        };
        let start = match self.whole("HeaderSize")?.unwrap_or(0) {
            -1 => Start::FromEnd,
            bytes => Start::At(u64::try_from(bytes).map_err(|_| {
                self.malformed(format!("HeaderSize is {bytes}, must be -1 or a number of bytes"))
            })?),
        };
        Ok(Header {
            grid: DeclaredGrid {
                size,
                spacing: self.first_of(["ElementSpacing", "ElementSize"])?.unwrap_or([1.0; 3]),
                origin: self.first_of(["ImagePosition", "Origin", "Position", "Offset"])?.unwrap_or([0.0; 3]),
                direction: self.direction()?,
            },
            element,
            order: self.order(),
            ascii: !self.flag("BinaryData").unwrap_or(true),
            compressed: self.flag("CompressedData").unwrap_or(false),
            compressed_size,
            start,
            data_file: self.values.get("ElementDataFile").cloned().unwrap_or_default(),
        })
    }

    /// `DimSize`, after `NDims` has been found to be 3.
    fn size(&self) -> Result<[u64; 3], ImageError> {
        let dimensions = self.whole("NDims")?.ok_or_else(|| self.missing("NDims"))?;
        if dimensions != 3 {
            let size = self.values.get("DimSize").map(|size| format!(" ({size} voxels)")).unwrap_or_default();
            return Err(self.unsupported(&format!("is a {dimensions}-D image{size}")));
        }
        let size = self.numbers::<3>("DimSize")?.ok_or_else(|| self.missing("DimSize"))?;
        // Written as floats by some, hence read as such; 2^53 is beyond any limit that follows.
        if let Some(bad) = size.iter().find(|n| n.fract() != 0.0 || **n < 0.0 || **n > 9e15) {
            return Err(self.malformed(format!("DimSize has {bad}, needs whole numbers of voxels")));
        }
        Ok(size.map(|n| n as u64))
    }

    fn element(&self) -> Result<ElementType, ImageError> {
        let name = self.values.get("ElementType").ok_or_else(|| self.missing("ElementType"))?;
        match name.as_str() {
            // MetaIO's LONG has four bytes on every platform, its ASCII_CHAR is a signed char.
            "MET_LONG" => Ok(ElementType::I32),
            "MET_ULONG" => Ok(ElementType::U32),
            "MET_ASCII_CHAR" => Ok(ElementType::I8),
            _ => match ElementType::ALL.iter().find(|element| element.met_name() == name) {
                Some(element) => Ok(*element),
                None if name.ends_with("_ARRAY") || name == "MET_STRING" || name == "MET_FLOAT_MATRIX" => {
                    Err(self.unsupported(&format!("has {name} voxels (a vector image)")))
                }
                None => Err(self.malformed(format!("ElementType is {name:?}, which is no element type"))),
            },
        }
    }

    /// The direction cosines; the file's rows are its columns.
    fn direction(&self) -> Result<[[f64; 3]; 3], ImageError> {
        let names = ["TransformMatrix", "Rotation", "Orientation"];
        let Some(m) = self.first_of::<9>(names)? else { return Ok(IDENTITY) };
        Ok(std::array::from_fn(|row| std::array::from_fn(|column| m[3 * column + row])))
    }

    fn order(&self) -> ByteOrder {
        let most_first = self.flag("BinaryDataByteOrderMSB").or_else(|| self.flag("ElementByteOrderMSB"));
        if most_first == Some(true) { ByteOrder::Big } else { ByteOrder::Little }
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.values.get(name).map(|value| value.starts_with(['T', 't', '1']))
    }

    fn whole(&self, name: &str) -> Result<Option<i64>, ImageError> {
        let Some([number]) = self.numbers::<1>(name)? else { return Ok(None) };
        if number.fract() != 0.0 || number.abs() > 9e15 {
            return Err(self.malformed(format!("{name} is {number}, must be a whole number")));
        }
        Ok(Some(number as i64))
    }

    /// The numbers under the first of these names that the header has.
    fn first_of<const N: usize>(
        &self,
        names: impl IntoIterator<Item = &'static str>,
    ) -> Result<Option<[f64; N]>, ImageError> {
        let name = names.into_iter().find(|name| self.values.contains_key(*name));
        name.map_or(Ok(None), |name| self.numbers(name))
    }

    /// The first `N` numbers under this name; more are ignored, as in MetaIO.
    fn numbers<const N: usize>(&self, name: &str) -> Result<Option<[f64; N]>, ImageError> {
        let Some(text) = self.values.get(name) else { return Ok(None) };
        let mut numbers = [0.0; N];
        let mut words = text.split_whitespace();
        for (got, number) in numbers.iter_mut().enumerate() {
            let word = words.next().ok_or_else(|| {
                let values = if got == 1 { "value" } else { "values" };
                self.malformed(format!("{name} has {got} {values}, needs {N}"))
            })?;
            *number =
                word.parse().map_err(|_| self.malformed(format!("{name} has {word:?}, needs a number")))?;
        }
        Ok(Some(numbers))
    }

    fn missing(&self, name: &str) -> ImageError {
        self.malformed(format!("the header has no {name}"))
    }

    fn malformed(&self, what: String) -> ImageError {
        ImageError::malformed(self.path, what)
    }

    fn unsupported(&self, what: &str) -> ImageError {
        ImageError::unsupported(self.path, format!("{what}; only scalar 3-D images are accepted"))
    }
}
