//! Where a case's inputs lie: as the platform's `inputs.json` says, otherwise by the usual names.

use super::interface::{INTERFACES, Interface, Socket};
use super::{list, name_of, small_file};
use serde_json::Value;
use std::fs;
use std::path::{Component, Path, PathBuf};
use tracing::subscriber::{NoSubscriber, with_default};

/// The platform's list of what it has put into the input folder.
const INPUTS: &str = "inputs.json";
/// More bytes than this are no list of inputs.
const LARGEST_LIST: u64 = 1 << 26;

/// Why an input cannot be located.
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
    /// The list has several places of one socket.
    #[error("{file}: names {slug} at {places}, expected one place", file = file.display())]
    Ambiguous {
        /// The list.
        file: PathBuf,
        /// The socket.
        slug: &'static str,
        /// The places.
        places: String,
    },
}

/// Where the inputs of a case lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The image, or the folder that holds it.
    pub image: PathBuf,
    /// The clinical information, which need not be there; `None` if the task has none.
    pub clinical: Option<PathBuf>,
    /// Inputs that nobody asked for: slugs from the list, or paths relative to the input folder.
    pub ignored: Vec<String>,
    /// Slugs that the list has; `None` without a list.
    pub listed: Option<Vec<String>>,
}

/// An entry of the list; everything else that it says is of no use here.
struct Entry {
    slug: String,
    relative_path: String,
}

/// Locates the inputs of `interface` under `input`, which may be a symbolic link.
///
/// An entry of `inputs.json` belongs to a socket by its slug or, if none has that slug, by its path. A socket that the list
/// lacks, or all if there is no list or it cannot be understood (a warning), are looked for under their usual names; so is
/// clinical information whose place cannot be meant (a warning), as no result depends on it.
///
/// # Errors
/// If the list names several places of the image, or one outside the input folder.
pub fn locate(input: &Path, interface: &Interface) -> Result<Located, SocketError> {
    let usual_image = input.join(interface.image.path);
    let usual_clinical = interface.clinical.map(|socket| input.join(socket.path));
    let file = input.join(INPUTS);
    let Some(entries) = read(&file) else {
        let ignored = unasked(input, interface);
        return Ok(Located { image: usual_image, clinical: usual_clinical, ignored, listed: None });
    };
    let place = |socket| place(input, &file, &entries, socket);
    let image = place(interface.image)?.unwrap_or(usual_image);
    let clinical = interface.clinical.map_or(Ok(None), place).unwrap_or_else(|error| {
        tracing::warn!("{error}; looking for it under its usual name");
        None
    });
    let clinical = clinical.or(usual_clinical);
    let asked: Vec<_> = sockets(interface).map(|socket| entries_of(&entries, socket)).collect();
    let unasked = |entry: &&Entry| !asked.iter().flatten().any(|asked| std::ptr::eq(*asked, *entry));
    let ignored = entries.iter().filter(unasked).map(|entry| entry.slug.clone()).collect();
    let listed = Some(entries.iter().map(|entry| entry.slug.clone()).collect());
    Ok(Located { image, clinical, ignored, listed })
}

fn sockets(interface: &Interface) -> impl Iterator<Item = Socket> {
    [Some(interface.image), interface.clinical].into_iter().flatten()
}

/// The tasks of `all` whose image the input folder names: in the platform's list if that names one, otherwise by a folder that
/// lies there.
pub(super) fn tasks_of(input: &Path, all: &[Interface]) -> Vec<Interface> {
    let entries = read_quietly(input).unwrap_or_default();
    let listed = |i: &&Interface| !entries_of(&entries, i.image).is_empty();
    let lies_there = |i: &&Interface| input.join(i.image.path).exists();
    let named: Vec<Interface> = all.iter().filter(listed).copied().collect();
    if named.is_empty() { all.iter().filter(lies_there).copied().collect() } else { named }
}

/// Slugs that the platform's list has; `None` without a list.
pub(super) fn listed_slugs(input: &Path) -> Option<Vec<String>> {
    Some(read_quietly(input)?.into_iter().map(|entry| entry.slug).collect())
}

/// The list's entries without the warnings, which come when the inputs are located.
fn read_quietly(input: &Path) -> Option<Vec<Entry>> {
    with_default(NoSubscriber::default(), || read(&input.join(INPUTS)))
}

/// The list's entries; `None`, with a warning, if there is something that is no list. Entries that are none are passed over,
/// with a warning each.
fn read(file: &Path) -> Option<Vec<Entry>> {
    let warn = |what: &str| {
        tracing::warn!("{}: {what}; looking for the inputs by their usual names", file.display());
    };
    let text = small_file::read(file, LARGEST_LIST).unwrap_or_else(|error| {
        warn(&error.to_string());
        None
    })?;
    let text = String::from_utf8_lossy(small_file::without_mark(&text));
    let values: Vec<Value> = match serde_json::from_str(&text) {
        Ok(Value::Array(values)) => values,
        Ok(_) => {
            warn("expected a list of entries, got another JSON value");
            return None;
        }
        Err(error) => {
            warn(&format!("expected a list of entries: {error}"));
            return None;
        }
    };
    let entries = values.iter().enumerate().filter_map(|(number, value)| {
        let found = entry(value);
        if found.is_none() {
            let file = file.display();
            tracing::warn!(
                "{file}: entry {number}: expected a socket with slug and relative_path; passed over"
            );
        }
        found
    });
    Some(entries.collect())
}

/// What an entry says of its socket, which older lists call interface.
fn entry(value: &Value) -> Option<Entry> {
    let socket = value.get("socket").or_else(|| value.get("interface"))?;
    let text = |key| socket.get(key).and_then(Value::as_str).map(str::to_owned);
    Some(Entry { slug: text("slug")?, relative_path: text("relative_path")? })
}

/// The entries that belong to a socket.
fn entries_of(entries: &[Entry], socket: Socket) -> Vec<&Entry> {
    let by = |belongs: &dyn Fn(&Entry) -> bool| entries.iter().filter(|e| belongs(e)).collect::<Vec<_>>();
    let found = by(&|entry| entry.slug == socket.slug);
    if found.is_empty() {
        let is_another = |entry: &Entry| INTERFACES.iter().any(|i| i.image.slug == entry.slug);
        by(&|entry| entry.relative_path.trim_end_matches('/') == socket.path && !is_another(entry))
    } else {
        found
    }
}

/// The one place that a list gives a socket; `None` if it does not name the socket.
fn place(
    input: &Path,
    file: &Path,
    entries: &[Entry],
    socket: Socket,
) -> Result<Option<PathBuf>, SocketError> {
    let mut places = Vec::new();
    for entry in entries_of(entries, socket) {
        let place = input.join(inside(input, file, entry)?);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    if places.len() > 1 {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        return Err(SocketError::Ambiguous {
            file: file.to_owned(),
            slug: socket.slug,
            places: list(&places),
        });
    }
    Ok(places.pop())
}

/// An entry's path, if it cannot lead out of the input folder.
fn inside<'e>(input: &Path, file: &Path, entry: &'e Entry) -> Result<&'e Path, SocketError> {
    let path = Path::new(&entry.relative_path);
    let path = path.strip_prefix(input).unwrap_or(path);
    let mut parts = path.components().peekable();
    if parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(path);
    }
    let (file, slug, got) = (file.to_owned(), entry.slug.clone(), entry.relative_path.clone());
    Err(SocketError::Outside { file, slug, got })
}

/// What lies in the input folder and among its images, and is not asked for.
fn unasked(input: &Path, interface: &Interface) -> Vec<String> {
    let asked: Vec<&str> = sockets(interface).map(|socket| socket.path).collect();
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
        Ok(Located { image: strip(located.image), clinical: located.clinical.map(strip), ..located })
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
        assert_eq!(found.clinical.unwrap(), Path::new("clinical-information-pancreatic-ct.json"));
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
        for nonsense in [json!({}), json!([1]), json!([{"socket": null}]), json!("[]"), json!(null)] {
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
    fn an_image_at_two_places_is_an_error_and_clinical_information_is_not() {
        let image = |path| entry("venous-phase-ct-scan", path);
        let error = located(&json!([image("a"), image("b")])).unwrap_err().to_string();
        assert!(
            error.contains("inputs.json: names venous-phase-ct-scan at ")
                && error.ends_with("/b, expected one place"),
            "{error}"
        );
        assert_eq!(located(&json!([image("a"), image("a/")])).unwrap().image, Path::new("a"));
        let clinical = |path| entry("clinical-information-pancreatic-ct", path);
        for strange in
            [json!([image("a"), clinical("b"), clinical("c")]), json!([image("a"), clinical("/etc/passwd")])]
        {
            let found = located(&strange).unwrap();
            assert_eq!(found.image, Path::new("a"));
            assert_eq!(found.clinical.unwrap(), Path::new("clinical-information-pancreatic-ct.json"));
            assert_eq!(found.ignored, [""; 0]);
        }
    }

    #[test]
    fn entries_that_are_none_do_not_cost_the_others() {
        let both = json!({"slug": "venous-phase-ct-scan", "relative_path": "images/x"});
        let table = [
            json!(null),
            json!({}),
            json!({"socket": {"slug": "a"}}),
            json!({"socket": {"slug": "a", "relative_path": null}}),
            json!({"socket": 4}),
            json!([[]]),
        ];
        for strange in table {
            let found = located(&json!([strange, {"socket": both, "interface": both}])).unwrap();
            assert_eq!(found.image, Path::new("images/x"), "{strange}");
        }
    }

    #[test]
    fn a_list_of_other_text_than_utf_8_is_understood_where_it_matters() {
        let folder = tempfile::tempdir().unwrap();
        let list = json!([entry("venous-phase-ct-scan", "images/x"), entry("name", "y")]).to_string();
        let bytes = [b"\xef\xbb\xbf", list.replace("name", "n@me").as_bytes()].concat();
        let bytes: Vec<u8> = bytes.into_iter().map(|b| if b == b'@' { 0xff } else { b }).collect();
        fs::write(folder.path().join(INPUTS), bytes).unwrap();
        let found = locate(folder.path(), &PANORAMA).unwrap();
        assert_eq!(found.image, folder.path().join("images/x"));
        assert_eq!(found.ignored, ["n\u{fffd}me"]);
    }

    #[test]
    fn an_absolute_path_inside_the_input_folder_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("images/x");
        let list = json!([entry("venous-phase-ct-scan", inside.to_str().unwrap())]);
        fs::write(folder.path().join(INPUTS), list.to_string()).unwrap();
        assert_eq!(locate(folder.path(), &PANORAMA).unwrap().image, inside);
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
