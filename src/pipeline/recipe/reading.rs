//! Reading a recipe so that a mistake is found: where it stands, what was expected, and which key was probably meant.

use serde::de::DeserializeOwned;

/// Keys that are less alike than this are not taken for misspelt.
const ALIKE: f64 = 0.6;

/// The value in a JSON text.
///
/// # Errors
/// What is wrong, with the path of the key in the text, line and column, and for an unknown key the nearest one that there is.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (path, what) = (error.path().to_string(), with_nearest_key(&error.inner().to_string()));
        if path == "." { what } else { format!("{path}: {what}") }
    })?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// The message of an unknown key or name, which lists those there are, with the one most like it.
fn with_nearest_key(message: &str) -> String {
    let is_unknown = ["unknown field `", "unknown variant `"].iter().any(|start| message.starts_with(start));
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (true, Some(unknown)) = (is_unknown, quoted.next()) else { return message.to_owned() };
    let likeness = |key: &str| strsim::normalized_damerau_levenshtein(unknown, key);
    let nearest = quoted.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|key| likeness(key) >= ALIKE || key.contains(unknown) || unknown.contains(key)) {
        Some(key) => format!("{message}; did you mean `{key}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::recipe::{ModelRun, Roi};

    #[test]
    fn a_misspelt_key_is_named_with_the_nearest_one() {
        let run = r#"{"folder": "f", "folds": [0], "checkpoint": "c", "mirorring": true, "step": 0.5}"#;
        let said = from_json::<ModelRun>(run).unwrap_err();
        assert!(said.starts_with("mirorring: unknown field `mirorring`, expected one of `folder`"), "{said}");
        assert!(said.contains(" at line 1 column "), "{said}");
        assert!(said.ends_with("; did you mean `mirroring`?"), "{said}");
        let said = from_json::<Roi>(r#"{"margin": 4}"#).unwrap_err();
        assert!(said.ends_with("; did you mean `margin_mm_xyz`?"), "{said}");
    }

    #[test]
    fn what_is_like_no_key_gets_no_suggestion() {
        let said = from_json::<Roi>(r#"{"colour": "red"}"#).unwrap_err();
        assert!(said.contains("unknown field `colour`") && !said.contains("did you mean"), "{said}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_by_its_path() {
        let said = from_json::<Vec<Roi>>(r#"[{"margin_mm_xyz": [1, "two", 3]}]"#).unwrap_err();
        assert!(said.starts_with("[0].margin_mm_xyz[1]: invalid type: string \"two\""), "{said}");
        assert!(from_json::<Vec<u8>>("[1] 2").unwrap_err().starts_with("trailing characters"));
    }
}
