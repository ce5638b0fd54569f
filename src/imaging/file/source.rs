//! Where voxels come from: files and compressed streams, opened and ended with suspicion.

use super::super::ImageError;
use super::MAX_BYTES;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Why voxels could not be read to their end.
#[derive(Debug)]
pub(crate) enum Shortfall {
    /// The source ended after `got` bytes.
    Ended { got: u64 },
    /// The source broke after `got` bytes.
    Broken { got: u64, error: io::Error },
    /// The memory for the array was refused.
    Memory,
}

impl Shortfall {
    /// The same, `bytes` further on.
    pub(crate) fn after(self, bytes: u64) -> Self {
        match self {
            Self::Ended { got } => Self::Ended { got: got + bytes },
            Self::Broken { got, error } => Self::Broken { got: got + bytes, error },
            Self::Memory => Self::Memory,
        }
    }

    /// The error about `path`, whose voxels were to take `expected` bytes.
    pub(crate) fn about(self, path: &Path, expected: u64) -> ImageError {
        match self {
            Self::Ended { got } => too_few(path, got, expected),
            Self::Memory => ImageError::limits(path, format!("no memory for {expected} bytes of voxels")),
            Self::Broken { got, error } => match error.downcast::<ImageError>() {
                Ok(error) => error,
                Err(error) => ImageError::malformed(
                    path,
                    format!("the voxels break off after {got} of {expected} bytes: {error}"),
                ),
            },
        }
    }
}

/// The error for a file that holds `got` bytes of voxels and needs `expected`.
pub(crate) fn too_few(path: &Path, got: u64, expected: u64) -> ImageError {
    ImageError::malformed(path, format!("the file has {got} bytes of voxels, needs {expected}"))
}

/// A regular file and its length; opening anything else could block or never end.
pub(crate) fn open(path: &Path) -> io::Result<(BufReader<File>, u64)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((BufReader::new(File::open(path)?), metadata.len()))
}

/// Whether the next bytes are a gzip member's first.
pub(crate) fn is_gzip(source: &mut impl BufRead) -> io::Result<bool> {
    Ok(source.fill_buf()?.starts_with(&[0x1f, 0x8b]))
}

/// What a zlib or gzip stream holds, told apart by their first bytes.
pub(crate) fn inflate<'a>(mut source: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match is_gzip(&mut source)? {
        true => Box::new(MultiGzDecoder::new(source)),
        false => Box::new(ZlibDecoder::new(source)),
    })
}

/// Refuses `expected` bytes that so few compressed ones cannot hold: deflate shrinks 1032-fold at most.
pub(crate) fn check_ratio(path: &Path, compressed: u64, expected: u64) -> Result<(), ImageError> {
    if expected <= MAX_BYTES && expected <= compressed.saturating_mul(1032) {
        return Ok(());
    }
    Err(ImageError::malformed(
        path,
        format!(
            "{compressed} compressed bytes cannot hold the {expected} bytes of voxels that the header declares"
        ),
    ))
}

/// Reads on to the checksum behind the voxels, where it follows at once.
///
/// More voxels than declared, garbage behind the stream, and a stream cut within its checksum all pass, as in ITK.
pub(crate) fn check_sum(path: &Path, stream: &mut dyn Read) -> Result<(), ImageError> {
    match stream.read(&mut [0]) {
        Err(error) if is_checksum_error(&error) => {
            Err(ImageError::malformed(path, format!("the compressed voxels are damaged: {error}")))
        }
        _ => Ok(()),
    }
}

fn is_checksum_error(error: &io::Error) -> bool {
    let text = error.to_string();
    // flate2 has no kind of its own for this; the tests below fail should it change its words.
    text.contains("checksum") || text.contains("corrupt deflate stream")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use std::io::Write;

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// The first 100 bytes inflated, unless they or the check behind them fail.
    fn first_100(stream: &[u8]) -> Result<Vec<u8>, String> {
        let mut inflated = inflate(stream).unwrap();
        let mut bytes = vec![0; 100];
        // zlib's checksum is looked at with the last bytes already, gzip's when more are asked for.
        inflated.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        check_sum(Path::new("scan"), &mut *inflated).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    #[test]
    fn a_wrong_checksum_is_noticed_and_a_missing_one_is_not() {
        let data = (0..100).collect::<Vec<u8>>();
        for whole in [zlib(&data), gzip(&data)] {
            let length = whole.len();
            let mut wrong = whole.clone();
            // The last byte of zlib's checksum; gzip's is followed by four bytes of length.
            wrong[length - if whole[0] == 0x1f { 5 } else { 1 }] ^= 1;
            let cut = whole[..length - 1].to_vec();
            let trailed = [whole.as_slice(), b"garbage"].concat();
            for (stream, is_sound) in [(whole, true), (wrong, false), (cut, true), (trailed, true)] {
                let read = first_100(&stream);
                assert_eq!(read.as_ref().ok(), is_sound.then_some(&data), "{read:?}");
            }
        }
    }

    #[test]
    fn gzip_members_follow_one_another() {
        let data = (0..100).collect::<Vec<u8>>();
        let members = [gzip(&data[..30]), gzip(&data[30..])].concat();
        assert_eq!(first_100(&members), Ok(data));
    }

    #[test]
    fn more_than_deflate_can_shrink_is_refused() {
        assert!(check_ratio(Path::new("scan"), 1000, 1_032_000).is_ok());
        let error = check_ratio(Path::new("scan"), 1000, 1_032_001).unwrap_err().to_string();
        assert_eq!(
            error,
            "scan: 1000 compressed bytes cannot hold the 1032001 bytes of voxels that the header declares"
        );
    }

    #[test]
    fn a_folder_is_not_opened() {
        assert_eq!(open(&std::env::temp_dir()).unwrap_err().to_string(), "not a regular file");
    }
}
