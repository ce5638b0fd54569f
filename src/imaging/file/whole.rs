//! Files that appear whole or not at all, alone or several together.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempPath;

/// How names of temporary files begin.
const PREFIX: &str = ".writing-";

/// Temporary files that a process that ends now would leave behind.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is complete but not yet under its name; it is gone if it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Unpublished {
    temporary: Option<TempPath>,
    path: PathBuf,
}

impl Unpublished {
    /// Writes a temporary file of mode 0644 beside `path`.
    ///
    /// # Errors
    /// What `write` or the file system says.
    pub fn write(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let temporary = {
            let mut unfinished = unfinished();
            let temporary = builder.prefix(PREFIX).tempfile_in(folder_of(path))?;
            unfinished.push(temporary.path().to_owned());
            temporary
        };
        let (file, temporary) = temporary.into_parts();
        let unpublished = Self { temporary: Some(temporary), path: path.to_owned() };
        let mut buffered = BufWriter::new(file);
        write(&mut buffered)?;
        let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Some network file systems refuse; the file is good all the same.
            let _refused = file.set_permissions(fs::Permissions::from_mode(0o644));
        }
        // Some file systems report a full disk only here.
        file.sync_all()?;
        Ok(unpublished)
    }

    /// Where the file will lie.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let mut unfinished = unfinished();
            unfinished.retain(|path| **path != *temporary);
            drop(temporary);
        }
    }
}

/// Gives files their names, all of them or none; [`abandon_unfinished`] waits for it.
///
/// # Errors
/// The file that could not be named, and why.
pub fn publish(mut files: Vec<Unpublished>) -> Result<(), (PathBuf, io::Error)> {
    let mut unfinished = unfinished();
    for number in 0..files.len() {
        let Some(temporary) = files[number].temporary.take() else { continue };
        unfinished.retain(|path| **path != *temporary);
        if let Err(error) = temporary.persist(&files[number].path) {
            for published in &files[..number] {
                let _gone = fs::remove_file(&published.path);
            }
            return Err((files[number].path.clone(), error.error));
        }
    }
    Ok(())
}

/// Writes a file whole or not at all: a temporary one beside it, mode 0644, is renamed when complete, and gone if
/// anything fails.
///
/// # Errors
/// What `write` or the file system says.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    publish(vec![Unpublished::write(path, write)?]).map_err(|(_, error)| error)
}

/// Removes all temporary files of this process and lets no other begin: to be called just before the process ends in
/// the middle of something. Files that are being given their names get them first.
pub fn abandon_unfinished() {
    let unfinished = unfinished();
    for path in unfinished.iter() {
        let _gone = fs::remove_file(path);
    }
    // Never unlocked: whoever writes waits for the end of the process.
    std::mem::forget(unfinished);
}

/// Whether a file is one that a process which was killed had not finished.
pub fn is_left_behind(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
}

/// The folder that a file lies in; the working directory for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn text(path: &Path) -> Unpublished {
        Unpublished::write(path, |to| to.write_all(b"text")).unwrap()
    }

    #[test]
    fn files_get_their_names_together() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| text(&folder.path().join(name)));
        assert!(names(folder.path()).iter().all(|name| name.starts_with(PREFIX)));
        publish(vec![a, b]).unwrap();
        assert_eq!(names(folder.path()), ["a", "b"]);
        assert!(!unfinished().iter().any(|path| path.starts_with(folder.path())));
    }

    #[test]
    fn if_one_cannot_be_named_none_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        let [a, b] = ["a", "b"].map(|name| text(&folder.path().join(name)));
        let (path, _) = publish(vec![a, b]).unwrap_err();
        assert_eq!(path, folder.path().join("b"));
        assert_eq!(names(folder.path()), ["b"]);
    }

    #[test]
    fn a_file_that_is_not_published_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let _failed = Unpublished::write(&folder.path().join("a"), |to| {
            to.write_all(b"half")?;
            Err(io::Error::other("no more"))
        })
        .unwrap_err();
        drop(text(&folder.path().join("b")));
        assert_eq!(names(folder.path()), Vec::<String>::new());
        assert!(!unfinished().iter().any(|path| path.starts_with(folder.path())));
    }
}
