//! Small files that somebody else wrote.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// The bytes of a file; `None` if there is no such file.
///
/// # Errors
/// If it is no regular file (reading a pipe may never end), has more than `most` bytes, or cannot be read.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if !found.is_file() => return Err(io::Error::other("is not a regular file")),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("has more than {most} bytes")));
    }
    Ok(Some(bytes))
}

/// A text without the byte order mark that some programs begin theirs with.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_small_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert_eq!(read(&file, 5).unwrap(), None);
        fs::write(&file, "\u{feff}ab").unwrap();
        assert_eq!(without_mark(&read(&file, 5).unwrap().unwrap()), b"ab");
        assert_eq!(read(&file, 4).unwrap_err().to_string(), "has more than 4 bytes");
        assert_eq!(read(folder.path(), 5).unwrap_err().to_string(), "is not a regular file");
    }
}
