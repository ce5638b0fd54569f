//! Files that appear whole or not at all.

use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes a file whole or not at all: a temporary one beside it, mode 0644, is renamed when complete, and gone if
/// anything fails.
///
/// # Errors
/// What `write` or the file system says.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = folder_of(path);
    let temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder)?;
    let mut buffered = BufWriter::new(temporary);
    write(&mut buffered)?;
    let temporary = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Some network file systems refuse; the file is good all the same.
        let _refused = temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644));
    }
    // Some file systems report a full disk only here.
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    Ok(())
}

/// The folder that a file lies in; the working directory for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
