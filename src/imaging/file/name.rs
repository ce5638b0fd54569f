//! What the names of image files say.

use std::path::Path;

/// Endings of files that hold or begin an image, in lower case.
pub const ENDINGS: [&str; 5] = [".mha", ".mhd", ".nii", ".nii.gz", ".hdr"];

/// An image file's name without its ending; `None` for names that are not an image's, and for hidden files.
pub fn image_stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    let lower = name.to_ascii_lowercase();
    let ending = ENDINGS.iter().filter(|e| lower.ends_with(*e)).max_by_key(|e| e.len())?;
    let stem = &name[..name.len() - ending.len()];
    (!stem.is_empty() && !stem.starts_with('.')).then(|| stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ending_is_taken_off() {
        let stem = |name: &str| image_stem(Path::new(name));
        assert_eq!(stem("scan.nii.gz").as_deref(), Some("scan"));
        assert_eq!(stem("a.b.MHA").as_deref(), Some("a.b"));
        assert_eq!(stem("scan.raw"), None);
        assert_eq!(stem(".hidden.mha"), None);
        assert_eq!(stem(".mha"), None);
    }
}
