//! The voxels of a MetaImage: behind the header, in one other file, or in a series of them.

use super::super::file::element::{ByteOrder, ElementType};
use super::super::file::source::{self, check_ratio, check_sum, too_few};
use super::super::{ImageError, Voxels};
use super::header::Start;
use super::series::Series;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::path::Path;

/// How voxels are written down.
#[derive(Debug, Clone, Copy)]
pub(super) enum Encoding {
    Raw,
    /// zlib or gzip; `size` is `CompressedDataSize`.
    Deflated {
        size: Option<u64>,
    },
    Text,
}

/// The voxels that a header declares.
pub(super) struct Block<'a> {
    /// The header's file.
    pub(super) path: &'a Path,
    pub(super) element: ElementType,
    pub(super) order: ByteOrder,
    /// (z, y, x).
    pub(super) shape: [usize; 3],
    /// Bytes of all voxels in memory.
    pub(super) bytes: u64,
    pub(super) encoding: Encoding,
    pub(super) start: Start,
}

impl Block<'_> {
    /// The voxels that follow the header, at whose end `source` stands.
    pub(super) fn read_local(&self, mut source: impl BufRead + Seek) -> Result<Voxels, ImageError> {
        let base = source.stream_position().map_err(|error| ImageError::io(self.path, error))?;
        self.read_whole(self.path, source, base)
    }

    /// The voxels in one data file.
    pub(super) fn read_file(&self, file: &Path) -> Result<Voxels, ImageError> {
        let read = || {
            let (source, _) = source::open(file).map_err(|error| ImageError::io(file, error))?;
            self.read_whole(file, source, 0)
        };
        read().map_err(|error| self.in_data_file(error))
    }

    /// The voxels in several data files of equally many, one after another.
    pub(super) fn read_series(&self, series: Series<'_>) -> Result<Voxels, ImageError> {
        if matches!(self.encoding, Encoding::Text) {
            let what = "voxels as text in a series of files; text is accepted in one file only";
            return Err(ImageError::unsupported(self.path, what));
        }
        let bytes = self.bytes / series.count as u64;
        let mut source = SeriesReader { block: self, series, bytes, file: None };
        let voxels = self.element.read(&mut source, self.order, self.shape, false);
        voxels.map_err(|shortfall| shortfall.about(self.path, self.bytes))
    }

    fn read_whole(&self, file: &Path, source: impl BufRead + Seek, base: u64) -> Result<Voxels, ImageError> {
        if matches!(self.encoding, Encoding::Text) {
            return self.read_text(file, source, base);
        }
        let mut stream = self.stream(file, source, base, self.bytes)?;
        let voxels = self.element.read(&mut *stream, self.order, self.shape, true);
        let voxels = voxels.map_err(|shortfall| shortfall.about(file, self.bytes))?;
        self.finish(file, &mut *stream)?;
        Ok(voxels)
    }

    /// The stream of `expected` bytes of voxels in a file, after a look at whether they can be there.
    fn stream<'s>(
        &self,
        file: &Path,
        mut source: impl BufRead + Seek + 's,
        base: u64,
        expected: u64,
    ) -> Result<Box<dyn Read + 's>, ImageError> {
        let there = self.go_to_voxels(file, &mut source, base, expected)?;
        let Encoding::Deflated { size } = self.encoding else {
            return if there < expected { Err(too_few(file, there, expected)) } else { Ok(Box::new(source)) };
        };
        let size = size.unwrap_or(there);
        if size > there {
            let what = format!("CompressedDataSize is {size}, but {there} bytes are there");
            return Err(ImageError::malformed(file, what));
        }
        check_ratio(file, size, expected)?;
        source::inflate(source.take(size)).map_err(|error| ImageError::io(file, error))
    }

    fn finish(&self, file: &Path, stream: &mut dyn Read) -> Result<(), ImageError> {
        if matches!(self.encoding, Encoding::Deflated { .. }) { check_sum(file, stream) } else { Ok(()) }
    }

    /// Moves to the first voxel; how many bytes the file has from there.
    fn go_to_voxels(
        &self,
        file: &Path,
        source: &mut impl Seek,
        base: u64,
        expected: u64,
    ) -> Result<u64, ImageError> {
        let io = |error| ImageError::io(file, error);
        let length = source.seek(SeekFrom::End(0)).map_err(io)?;
        let first = match (self.start, self.encoding) {
            (Start::FromEnd, Encoding::Raw) => length
                .checked_sub(expected)
                .filter(|&first| first >= base)
                .ok_or_else(|| too_few(file, length.saturating_sub(base), expected))?,
            (Start::FromEnd, _) | (Start::At(0), _) => base,
            (Start::At(bytes), _) => bytes,
        };
        source.seek(SeekFrom::Start(first)).map_err(io)?;
        Ok(length.saturating_sub(first))
    }

    fn read_text(
        &self,
        file: &Path,
        mut source: impl BufRead + Seek,
        base: u64,
    ) -> Result<Voxels, ImageError> {
        let there = self.go_to_voxels(file, &mut source, base, 0)?;
        let count = self.shape.iter().product::<usize>() as u64;
        // A digit for each voxel and a blank between two of them.
        if there < 2 * count - 1 {
            let what = format!("{there} bytes of text cannot hold {count} voxels");
            return Err(ImageError::malformed(file, what));
        }
        let voxels = self.element.collect(&mut Numbers { bytes: source.bytes() }, self.shape);
        voxels.map_err(|what| ImageError::malformed(file, what))
    }

    /// An error about a data file as one about the header that names it.
    fn in_data_file(&self, error: ImageError) -> ImageError {
        let what = format!("its data file {error}");
        match error {
            ImageError::Io { source, .. } => ImageError::io(self.path, io::Error::new(source.kind(), what)),
            ImageError::Malformed { .. } => ImageError::malformed(self.path, what),
            ImageError::Unsupported { .. } => ImageError::unsupported(self.path, what),
            ImageError::Limits { .. } => ImageError::limits(self.path, what),
            ImageError::Memory { source, .. } => ImageError::Memory { path: self.path.to_owned(), source },
        }
    }
}

/// The data files of a series as one stream.
struct SeriesReader<'a> {
    block: &'a Block<'a>,
    series: Series<'a>,
    /// Bytes of voxels in each file.
    bytes: u64,
    file: Option<DataFile>,
}

struct DataFile {
    path: std::path::PathBuf,
    stream: Box<dyn Read>,
    left: u64,
}

impl SeriesReader<'_> {
    fn open_next(&mut self) -> Result<Option<DataFile>, ImageError> {
        let Some(path) = self.series.next_file(self.block.path)? else { return Ok(None) };
        let encoding = match self.block.encoding {
            // One number cannot be every file's size.
            Encoding::Deflated { .. } => Encoding::Deflated { size: None },
            encoding => encoding,
        };
        let block = Block { encoding, ..*self.block };
        let open = || {
            let (source, _) = source::open(&path).map_err(|error| ImageError::io(&path, error))?;
            block.stream(&path, source, 0, self.bytes)
        };
        let stream = open().map_err(|error| block.in_data_file(error))?;
        Ok(Some(DataFile { path, stream, left: self.bytes }))
    }
}

impl Read for SeriesReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => match self.open_next().map_err(io::Error::other)? {
                Some(file) => file,
                None => return Ok(0),
            },
        };
        let wanted = buffer.len().min(usize::try_from(file.left).unwrap_or(usize::MAX));
        let got = file.stream.read(&mut buffer[..wanted])?;
        if got == 0 && wanted > 0 {
            let error = too_few(&file.path, self.bytes - file.left, self.bytes);
            return Err(io::Error::other(self.block.in_data_file(error)));
        }
        file.left -= got as u64;
        if file.left > 0 {
            self.file = Some(file);
        } else {
            let end = self.block.finish(&file.path, &mut *file.stream);
            end.map_err(|error| io::Error::other(self.block.in_data_file(error)))?;
        }
        Ok(got)
    }
}

/// Numbers between blanks or commas.
struct Numbers<B> {
    bytes: B,
}

/// Longer than any number that anyone prints.
const LONGEST_NUMBER: usize = 400;

impl<B: Iterator<Item = io::Result<u8>>> Iterator for Numbers<B> {
    type Item = Result<f64, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut word = String::new();
        loop {
            match self.bytes.next() {
                Some(Err(error)) => return Some(Err(error.to_string())),
                Some(Ok(byte)) if !byte.is_ascii_whitespace() && byte != b',' => word.push(char::from(byte)),
                Some(Ok(_)) if word.is_empty() => continue,
                None if word.is_empty() => return None,
                Some(Ok(_)) | None => return Some(number(&word)),
            }
            if word.len() > LONGEST_NUMBER {
                return Some(number(&word));
            }
        }
    }
}

fn number(word: &str) -> Result<f64, String> {
    word.parse().map_err(|_| {
        format!("the voxels have {:?}, needs a number", word.chars().take(40).collect::<String>())
    })
}
