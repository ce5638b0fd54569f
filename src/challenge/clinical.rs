//! The clinical information that comes with a scan.

use super::small_file;
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

/// More bytes than this are no clinical information.
const LARGEST: u64 = 1 << 20;

/// Why clinical information cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClinicalError {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The file is not what the platform promises.
    #[error("{path}: {what}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, expected, got.
        what: String,
    },
}

/// What is known about a patient and the scan; anything may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClinicalInformation {
    /// Age at the time of the scan.
    pub age: Option<Age>,
    /// Sex.
    pub sex: Option<Sex>,
    /// Day of the scan: year, month, day.
    pub study_date: Option<[u16; 3]>,
    /// The scanner, as its maker calls it.
    pub scanner: Option<String>,
}

/// An age as DICOM writes it (value representation AS): three digits and a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// How many.
    pub number: u16,
    /// Of what: `D`ays, `W`eeks, `M`onths or `Y`ears.
    pub unit: char,
}

/// Sex as DICOM writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sex {
    /// `F`
    Female,
    /// `M`
    Male,
    /// `O`
    Other,
}

impl ClinicalInformation {
    /// Reads the file; `None` if there is none, or it holds nothing but `null`.
    ///
    /// Each of the keys may be `null` or missing, and other keys are passed over.
    ///
    /// # Errors
    /// If the file cannot be read, or a value is not of its form.
    pub fn read(path: &Path) -> Result<Option<Self>, ClinicalError> {
        let read = small_file::read(path, LARGEST);
        let text = read.map_err(|source| ClinicalError::Io { path: path.to_owned(), source })?;
        let Some(text) = text else { return Ok(None) };
        let malformed = |what| ClinicalError::Malformed { path: path.to_owned(), what };
        match serde_json::from_slice(small_file::without_mark(&text)) {
            Ok(Value::Null) => Ok(None),
            Ok(Value::Object(values)) => Self::parse(&values).map(Some).map_err(malformed),
            Ok(other) => Err(malformed(format!("expected an object or null, got {}", kind(&other)))),
            Err(error) => Err(malformed(error.to_string())),
        }
    }

    fn parse(values: &Map<String, Value>) -> Result<Self, String> {
        Ok(Self {
            age: parsed(values, "age", "three digits and D, W, M or Y, such as \"042Y\"", age)?,
            sex: parsed(values, "sex", "\"F\", \"M\" or \"O\"", sex)?,
            study_date: parsed(values, "study_date", "a day such as \"20240131\" or \"2024-01-31\"", date)?,
            scanner: parsed(values, "scanner", "a string", |text| Some(text.to_owned()))?,
        })
    }
}

/// The value of `key`; an empty string, as DICOM writes unknown values, is none.
fn parsed<T>(
    values: &Map<String, Value>,
    key: &str,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, String> {
    let got = match values.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => match parse(text.trim()) {
            Some(value) => return Ok(Some(value)),
            None => format!("{:?}", text.chars().take(40).collect::<String>()),
        },
        Some(other) => kind(other).to_owned(),
    };
    Err(format!("{key}: expected {expected} or null, got {got}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn age(text: &str) -> Option<Age> {
    let unit = text.chars().last().filter(|unit| "DWMY".contains(*unit))?;
    let digits = &text[..text.len() - 1];
    (digits.len() == 3).then_some(())?;
    Some(Age { number: number(digits)?, unit })
}

fn sex(text: &str) -> Option<Sex> {
    match text {
        "F" => Some(Sex::Female),
        "M" => Some(Sex::Male),
        "O" => Some(Sex::Other),
        _ => None,
    }
}

fn date(text: &str) -> Option<[u16; 3]> {
    let parts: Vec<&str> = match text.len() {
        8 => vec![text.get(..4)?, text.get(4..6)?, text.get(6..)?],
        10 => text.split('-').collect(),
        _ => return None,
    };
    let [year, month, day] = parts.as_slice() else { return None };
    let (year, month, day) = (number(year)?, number(month)?, number(day)?);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some([year, month, day])
}

/// Digits only: `parse` alone would also take a sign.
fn number(digits: &str) -> Option<u16> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<ClinicalInformation>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        ClinicalInformation::read(file.path()).map_err(|error| {
            let text = error.to_string();
            text.strip_prefix(&format!("{}: ", file.path().display())).unwrap().to_owned()
        })
    }

    #[test]
    fn what_is_given_is_read() {
        let text = r#"{"age": "042Y", "sex": "F", "study_date": "20240131", "scanner": "X", "more": 1}"#;
        let expected = ClinicalInformation {
            age: Some(Age { number: 42, unit: 'Y' }),
            sex: Some(Sex::Female),
            study_date: Some([2024, 1, 31]),
            scanner: Some("X".to_owned()),
        };
        assert_eq!(read(text), Ok(Some(expected)));
        let dashed = read(r#"{"study_date": "2024-01-31"}"#).unwrap().unwrap();
        assert_eq!(dashed.study_date, Some([2024, 1, 31]));
    }

    #[test]
    fn everything_may_be_missing() {
        let none = ClinicalInformation::default();
        let nulls = r#"{"age": null, "sex": null, "study_date": null, "scanner": null}"#;
        for text in [nulls, "{}", r#"{"age": "", "sex": " "}"#] {
            assert_eq!(read(text), Ok(Some(none.clone())), "{text}");
        }
        assert_eq!(read("null"), Ok(None));
        assert_eq!(ClinicalInformation::read(Path::new("/nowhere/at/all.json")).unwrap(), None);
    }

    #[test]
    fn values_of_another_form_are_named() {
        let table = [
            (
                r#"{"age": 42}"#,
                "age: expected three digits and D, W, M or Y, such as \"042Y\" or null, got a number",
            ),
            (
                r#"{"age": "42Y"}"#,
                "age: expected three digits and D, W, M or Y, such as \"042Y\" or null, got \"42Y\"",
            ),
            (r#"{"age": "+42Y"}"#, "got \"+42Y\""),
            (r#"{"age": "04€"}"#, "got \"04€\""),
            (r#"{"sex": "f"}"#, "sex: expected \"F\", \"M\" or \"O\" or null, got \"f\""),
            (r#"{"study_date": "20241301"}"#, "got \"20241301\""),
            (r#"{"study_date": "2024€€"}"#, "got \"2024€€\""),
            (r#"{"scanner": ["a"]}"#, "scanner: expected a string or null, got a list"),
            ("[]", "expected an object or null, got a list"),
            ("{", "EOF"),
        ];
        for (text, message) in table {
            let error = read(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
