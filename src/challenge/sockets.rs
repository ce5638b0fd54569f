//! Where a case's inputs lie: as the platform's `inputs.json` says, otherwise by the usual names.

use super::interface::{Interface, Socket};
use super::{list, name_of};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// The platform's list of what it has put into the input folder.
const INPUTS: &str = "inputs.json";
/// More bytes than this are no list of inputs.
const LARGEST_LIST: u64 = 1 << 24;

/// Why the inputs cannot be located.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The list names a place that cannot be meant.
    #[error("{file}: relative_path of {slug} is {got:?}, expected a path inside the input folder", file = file.display())]
    Outside {
        /// The list.
        file: PathBuf,
        /// The socket.
        slug: String,
        /// The path.
        got: String,
    },
    /// The list has several entries of one socket.
    #[error("{file}: names {slug} {count} times, expected once", file = file.display())]
    Repeated {
        /// The list.
        file: PathBuf,
        /// The socket.
        slug: &'static str,
        /// How often.
        count: usize,
    },
}

/// Where the inputs of a case lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The image, or the folder that holds it.
    pub image: PathBuf,
    /// The clinical information, which need not be there.
    pub clinical: PathBuf,
    /// Inputs that nobody asked for: slugs from the list, or paths relative to the input folder.
    pub ignored: Vec<String>,
    /// Slugs that the list has; `None` without a list.
    pub listed: Option<Vec<String>>,
}

/// An entry of the list; everything else that it says is of no use here.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(alias = "interface")]
    socket: EntrySocket,
}

#[derive(Debug, Deserialize)]
struct EntrySocket {
    slug: String,
    relative_path: String,
}

/// Locates the inputs of `interface` under `input`, which may be a symbolic link.
///
/// An entry of `inputs.json` belongs to a socket by its slug or, if none has that slug, by its path. A socket that the list
/// lacks, or all if there is no list or it cannot be understood (a warning), are looked for under their usual names.
///
/// # Errors
/// If the list names a socket twice, or a path outside the input folder.
pub fn locate(input: &Path, interface: &Interface) -> Result<Located, SocketError> {
    let file = input.join(INPUTS);
    let Some(entries) = read(&file) else {
        let ignored = unasked(input, interface);
        let [image, clinical] = [interface.image, interface.clinical].map(|s| input.join(s.path));
        return Ok(Located { image, clinical, ignored, listed: None });
    };
    let mut asked = Vec::new();
    let mut place = |socket: Socket| {
        let entry = entry_of(&file, &entries, socket)?;
        asked.extend(entry);
        let path = entry.map_or(Ok(socket.path), |number| inside(&file, &entries[number]))?;
        Ok(input.join(path))
    };
    let (image, clinical) = (place(interface.image)?, place(interface.clinical)?);
    let slugs = |wanted: &dyn Fn(usize) -> bool| {
        let numbered = entries.iter().enumerate().filter(|(number, _)| wanted(*number));
        numbered.map(|(_, entry)| entry.slug.clone()).collect()
    };
    let ignored = slugs(&|number| !asked.contains(&number));
    Ok(Located { image, clinical, ignored, listed: Some(slugs(&|_| true)) })
}

/// The list's entries; `None`, with a warning, if there is something that is no list.
fn read(file: &Path) -> Option<Vec<EntrySocket>> {
    let mut text = String::new();
    let read = File::open(file).and_then(|f| f.take(LARGEST_LIST).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("{}: {error}; looking for the inputs by their usual names", file.display());
            return None;
        }
        Ok(_) => {}
    }
    match serde_json::from_str::<Vec<Entry>>(&text) {
        Ok(entries) => Some(entries.into_iter().map(|entry| entry.socket).collect()),
        Err(error) => {
            tracing::warn!(
                "{}: expected a list of entries with a socket each: {error}; looking for the inputs by their usual names",
                file.display()
            );
            None
        }
    }
}

/// Number of the entry that belongs to a socket.
fn entry_of(file: &Path, entries: &[EntrySocket], socket: Socket) -> Result<Option<usize>, SocketError> {
    let numbers = |belongs: &dyn Fn(&EntrySocket) -> bool| -> Vec<usize> {
        (0..entries.len()).filter(|&number| belongs(&entries[number])).collect()
    };
    let mut found = numbers(&|entry| entry.slug == socket.slug);
    if found.is_empty() {
        found = numbers(&|entry| entry.relative_path.trim_end_matches('/') == socket.path);
    }
    match found.len() {
        0 | 1 => Ok(found.first().copied()),
        count => Err(SocketError::Repeated { file: file.to_owned(), slug: socket.slug, count }),
    }
}

/// An entry's path, if it cannot lead out of the input folder.
fn inside<'e>(file: &Path, entry: &'e EntrySocket) -> Result<&'e str, SocketError> {
    let path = Path::new(&entry.relative_path);
    let mut parts = path.components().peekable();
    if parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(&entry.relative_path);
    }
    let (file, slug, got) = (file.to_owned(), entry.slug.clone(), entry.relative_path.clone());
    Err(SocketError::Outside { file, slug, got })
}

/// What lies in the input folder and among its images, and is not asked for.
fn unasked(input: &Path, interface: &Interface) -> Vec<String> {
    let asked = [interface.image.path, interface.clinical.path];
    let entries = |folder: &str| {
        let entries = fs::read_dir(input.join(folder)).into_iter().flatten().flatten();
        entries.map(|e| Path::new(folder).join(name_of(&e.path()))).collect::<Vec<_>>()
    };
    let (images, others) = (entries("images"), entries("").into_iter().filter(|p| *p != Path::new("images")));
    let mut names: Vec<String> = images.into_iter().chain(others).map(|p| p.display().to_string()).collect();
    names.retain(|name| !asked.contains(&name.as_str()));
    names.sort();
    names
}

impl Located {
    /// Logs what was not asked for.
    pub(super) fn log_ignored(&self) {
        if !self.ignored.is_empty() {
            tracing::info!("inputs that are not asked for are ignored: {}", list(&self.ignored));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PANORAMA;
    use super::*;
    use serde_json::{Value, json};

    fn located(inputs: &Value) -> Result<Located, SocketError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(INPUTS), inputs.to_string()).unwrap();
        let located = locate(folder.path(), &PANORAMA)?;
        let strip = |path: PathBuf| path.strip_prefix(folder.path()).unwrap().to_owned();
        Ok(Located { image: strip(located.image), clinical: strip(located.clinical), ..located })
    }

    fn entry(slug: &str, path: &str) -> Value {
        json!({
            "socket": {"slug": slug, "relative_path": path, "is_image_kind": true, "kind": "Image", "pk": 7},
            "image": {"name": "100001_00001_0000.mha"}, "value": null, "file": null,
        })
    }

    #[test]
    fn entries_belong_by_slug_then_by_path() {
        let found = located(&json!([
            entry("other", "images/venous-ct"),
            entry("venous-phase-ct-scan", "images/somewhere"),
            entry("age-and-sex", "clinical-information-pancreatic-ct.json"),
        ]))
        .unwrap();
        assert_eq!(found.image, Path::new("images/somewhere"));
        assert_eq!(found.clinical, Path::new("clinical-information-pancreatic-ct.json"));
        assert_eq!(found.ignored, ["other"]);
        assert_eq!(located(&json!([entry("a", "images/venous-ct/")])).unwrap().ignored, [""; 0]);
    }

    #[test]
    fn the_older_name_of_a_socket_is_understood() {
        let old = json!([{"interface": {"slug": "venous-phase-ct-scan", "relative_path": "images/x"}}]);
        assert_eq!(located(&old).unwrap().image, Path::new("images/x"));
    }

    #[test]
    fn what_the_list_lacks_has_its_usual_name() {
        let found = located(&json!([entry("t2", "images/t2")])).unwrap();
        assert_eq!(found.image, Path::new("images/venous-ct"));
        assert_eq!(found.listed.unwrap(), ["t2"]);
    }

    #[test]
    fn a_list_that_is_none_is_passed_over() {
        for nonsense in [json!({}), json!([1]), json!([{"socket": null}]), json!("[]")] {
            assert_eq!(located(&nonsense).unwrap().image, Path::new("images/venous-ct"), "{nonsense}");
        }
    }

    #[test]
    fn no_path_leads_out_of_the_input_folder() {
        for path in ["../images", "/etc", "", "images/../../etc"] {
            let error = located(&json!([entry("venous-phase-ct-scan", path)])).unwrap_err().to_string();
            let expected = format!(
                "inputs.json: relative_path of venous-phase-ct-scan is {path:?}, expected a path inside the input folder"
            );
            assert!(error.ends_with(&expected), "{error}");
        }
    }

    #[test]
    fn a_socket_that_is_named_twice_is_an_error() {
        let twice = json!([entry("venous-phase-ct-scan", "a"), entry("venous-phase-ct-scan", "b")]);
        let error = located(&twice).unwrap_err().to_string();
        assert!(error.ends_with("inputs.json: names venous-phase-ct-scan 2 times, expected once"), "{error}");
    }

    #[test]
    fn without_a_list_what_else_lies_there_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["images/venous-ct", "images/arterial-ct", "notes"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let found = locate(folder.path(), &PANORAMA).unwrap();
        assert_eq!(found.ignored, ["images/arterial-ct", "notes"]);
        assert_eq!(found.listed, None);
    }
}
