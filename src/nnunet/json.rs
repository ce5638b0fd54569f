//! JSON with a sense of place: every value knows its file and its path, so that errors can name them.

use super::error::ModelError;
use serde_json::Value;
use std::ops::RangeInclusive;
use std::path::Path;

/// The parsed content of a JSON file.
///
/// # Errors
/// If the file cannot be read or is not JSON.
pub(super) fn read(file: &Path) -> Result<Value, ModelError> {
    let bytes = std::fs::read(file).map_err(|source| ModelError::io(file, source))?;
    parse(file, &bytes)
}

/// `bytes` as JSON; `file` is named in errors.
///
/// # Errors
/// If they are not JSON.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Value, ModelError> {
    serde_json::from_slice(bytes).map_err(|e| ModelError::malformed(file, format!("not JSON: {e}")))
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    file: &'a Path,
    place: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// The outermost value of `file`.
    pub(super) fn root(file: &'a Path, value: &'a Value) -> Self {
        Self { file, place: String::new(), value }
    }

    /// The file that it stands in.
    pub(super) fn file(&self) -> &'a Path {
        self.file
    }

    /// Whether it is `null`.
    pub(super) fn is_null(&self) -> bool {
        self.value.is_null()
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// "`place`: expected …, got …".
    pub(super) fn malformed(&self, expected: &str) -> ModelError {
        ModelError::malformed(
            self.file,
            format!("{}: expected {expected}, got {}", self.name(), self.shown()),
        )
    }

    /// "`place`: … is not supported, only …".
    pub(super) fn unsupported(&self, accepted: &str) -> ModelError {
        let what = format!("{}: {} is not supported, only {accepted}", self.name(), self.shown());
        ModelError::unsupported(self.file, what)
    }

    /// The member `key` of an object.
    pub(super) fn field(&self, key: &str) -> Result<Self, ModelError> {
        self.get(key)?
            .ok_or_else(|| ModelError::malformed(self.file, format!("{}: \"{key}\" is missing", self.name())))
    }

    /// The member `key` of an object, `None` where it is absent (not where it is `null`).
    pub(super) fn get(&self, key: &str) -> Result<Option<Self>, ModelError> {
        let object = self.value.as_object().ok_or_else(|| self.malformed("an object"))?;
        Ok(object.get(key).map(|value| self.child(key, value)))
    }

    /// Members of an object in file order.
    pub(super) fn members(&self) -> Result<Vec<(&'a str, Self)>, ModelError> {
        let object = self.value.as_object().ok_or_else(|| self.malformed("an object"))?;
        Ok(object.iter().map(|(key, value)| (key.as_str(), self.child(key, value))).collect())
    }

    /// Elements of a list.
    pub(super) fn items(&self) -> Result<Vec<Self>, ModelError> {
        let list = self.value.as_array().ok_or_else(|| self.malformed("a list"))?;
        let item = |(i, value)| Self { file: self.file, place: format!("{}[{i}]", self.place), value };
        Ok(list.iter().enumerate().map(item).collect())
    }

    /// Three elements, each read by `read`.
    pub(super) fn triple<T>(
        &self,
        read: impl Fn(&Self) -> Result<T, ModelError>,
    ) -> Result<[T; 3], ModelError> {
        let items = self.items()?.iter().map(read).collect::<Result<Vec<T>, _>>()?;
        <[T; 3]>::try_from(items).map_err(|_| self.malformed("a list of 3"))
    }

    /// A string.
    pub(super) fn text(&self) -> Result<&'a str, ModelError> {
        self.value.as_str().ok_or_else(|| self.malformed("a string"))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, ModelError> {
        self.value.as_bool().ok_or_else(|| self.malformed("true or false"))
    }

    /// A finite number.
    pub(super) fn number(&self) -> Result<f64, ModelError> {
        let number = self.value.as_f64().filter(|v| v.is_finite());
        number.ok_or_else(|| self.malformed("a finite number"))
    }

    /// A whole number (`3` or `3.0`) in `range`.
    pub(super) fn integer(&self, range: RangeInclusive<usize>) -> Result<usize, ModelError> {
        let whole = self.value.as_u64().or_else(|| {
            let float = self.value.as_f64()?;
            (float.fract() == 0.0 && (0.0..=9e15).contains(&float)).then_some(float as u64)
        });
        whole.and_then(|v| usize::try_from(v).ok()).filter(|v| range.contains(v)).ok_or_else(|| {
            self.malformed(&format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    fn child(&self, key: &str, value: &'a Value) -> Self {
        let place = if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
        Self { file: self.file, place, value }
    }

    fn name(&self) -> &str {
        if self.place.is_empty() { "the file" } else { &self.place }
    }

    /// The value as JSON, shortened.
    fn shown(&self) -> String {
        let text = self.value.to_string();
        match text.char_indices().nth(100) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}
