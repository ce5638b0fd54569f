//! `ElementDataFile`: the files that it stands for.

use super::super::ImageError;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// What `ElementDataFile` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DataFiles {
    /// The voxels follow the header.
    Local,
    /// One file of this name.
    One(String),
    /// The lines behind the header name files with this many dimensions of the image each.
    List { dimensions: usize },
    /// A file for each slice, numbered.
    Pattern(Pattern),
}

/// `name%03d.raw 1 9 1`: a name with a place for a number, the first, the last and the step between two.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    before: String,
    width: usize,
    zeros: bool,
    after: String,
    first: i64,
    last: Option<i64>,
    step: i64,
}

impl DataFiles {
    /// The meaning of a value of `ElementDataFile` in the header `path`.
    pub(super) fn parse(value: &str, path: &Path) -> Result<Self, ImageError> {
        let mut words = value.split_whitespace();
        if matches!(value, "LOCAL" | "Local" | "local") {
            Ok(Self::Local)
        } else if words.next() == Some("LIST") {
            // "2D", "2", or nothing; what makes no sense counts as nothing, as in MetaIO.
            let digits = words.next().map(|word| word.trim_end_matches(['D', 'd']));
            let dimensions = digits.and_then(|digits| digits.parse().ok()).filter(|n| matches!(n, 1..=3));
            Ok(Self::List { dimensions: dimensions.unwrap_or(2) })
        } else if value.contains('%') {
            let pattern = Pattern::parse(value).ok_or_else(|| {
                let what =
                    format!("ElementDataFile is {value:?}, needs a pattern such as \"slice%03d.raw 1 9 1\"");
                ImageError::malformed(path, what)
            })?;
            Ok(Self::Pattern(pattern))
        } else if value.is_empty() {
            Err(ImageError::malformed(path, "ElementDataFile is empty, needs LOCAL or a file's name"))
        } else {
            Ok(Self::One(value.to_owned()))
        }
    }
}

impl Pattern {
    fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_whitespace();
        let (before, rest) = words.next()?.split_once('%')?;
        let (format, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let after = after.strip_prefix(['d', 'i', 'u'])?;
        let mut number = || words.next().map(|word| word.parse::<i64>().ok());
        let first = number().unwrap_or(Some(1))?;
        let last = number().map_or(Some(None), |last| last.map(Some))?;
        let step = number().unwrap_or(Some(1)).filter(|&step| step > 0)?;
        Some(Self {
            before: before.to_owned(),
            width: if format.is_empty() { 0 } else { format.parse().ok().filter(|&width| width <= 20)? },
            zeros: format.starts_with('0'),
            after: after.to_owned(),
            first,
            last,
            step,
        })
    }

    /// The name of the file for a slice; `None` beyond the last.
    fn name(&self, slice: usize) -> Option<String> {
        let number = self.first.checked_add(self.step.checked_mul(i64::try_from(slice).ok()?)?)?;
        if self.last.is_some_and(|last| number > last) {
            return None;
        }
        let Self { before, width, after, .. } = self;
        Some(match self.zeros {
            true => format!("{before}{number:0width$}{after}"),
            false => format!("{before}{number:width$}{after}"),
        })
    }
}

/// The files of a series in their order, found one at a time.
pub(super) struct Series<'a> {
    /// How many files there must be.
    pub(super) count: usize,
    folder: &'a Path,
    given: usize,
    names: Names<'a>,
}

enum Names<'a> {
    Pattern(Pattern),
    Lines(Box<dyn BufRead + 'a>),
}

/// Longest line with a file's name.
const LONGEST_NAME: u64 = 4096;

impl<'a> Series<'a> {
    /// The files named by the lines of `source`, each with `dimensions` dimensions of an image of this (z, y, x) shape.
    pub(super) fn list(
        shape: [usize; 3],
        dimensions: usize,
        source: impl BufRead + 'a,
        folder: &'a Path,
    ) -> Self {
        let count = shape[..3 - dimensions.min(3)].iter().product();
        Self { count, folder, given: 0, names: Names::Lines(Box::new(source)) }
    }

    /// The numbered files of the slices of an image of this (z, y, x) shape.
    pub(super) fn pattern(shape: [usize; 3], pattern: Pattern, folder: &'a Path) -> Self {
        Self { count: shape[0], folder, given: 0, names: Names::Pattern(pattern) }
    }

    /// The next file, `None` when all have been given; `path` is the header's.
    pub(super) fn next_file(&mut self, path: &Path) -> Result<Option<PathBuf>, ImageError> {
        if self.given == self.count {
            return Ok(None);
        }
        let name = match &mut self.names {
            Names::Pattern(pattern) => pattern.name(self.given),
            Names::Lines(lines) => next_line(&mut **lines).map_err(|error| ImageError::io(path, error))?,
        };
        let name = name.ok_or_else(|| {
            let what = format!("ElementDataFile names {} files, needs {}", self.given, self.count);
            ImageError::malformed(path, what)
        })?;
        self.given += 1;
        Ok(Some(self.folder.join(name)))
    }
}

/// The next line that is not blank, without its end.
fn next_line(lines: &mut dyn BufRead) -> std::io::Result<Option<String>> {
    loop {
        let mut line = Vec::new();
        if lines.take(LONGEST_NAME).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let name = String::from_utf8_lossy(&line).trim().to_owned();
        if !name.is_empty() {
            return Ok(Some(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(value: &str, slices: usize) -> Vec<String> {
        let DataFiles::Pattern(pattern) = DataFiles::parse(value, Path::new("scan.mhd")).unwrap() else {
            panic!("{value} is a pattern")
        };
        (0..slices).map_while(|slice| pattern.name(slice)).collect()
    }

    #[test]
    fn element_data_file_is_understood() {
        let parse = |value| DataFiles::parse(value, Path::new("scan.mhd")).unwrap();
        assert_eq!(parse("LOCAL"), DataFiles::Local);
        assert_eq!(parse("local"), DataFiles::Local);
        assert_eq!(parse("LoCal"), DataFiles::One("LoCal".to_owned()));
        assert_eq!(parse("a b.raw"), DataFiles::One("a b.raw".to_owned()));
        assert_eq!(parse("LIST"), DataFiles::List { dimensions: 2 });
        assert_eq!(parse("LIST 3D"), DataFiles::List { dimensions: 3 });
        assert_eq!(parse("LIST 1"), DataFiles::List { dimensions: 1 });
        assert_eq!(parse("LIST 7D"), DataFiles::List { dimensions: 2 });
    }

    #[test]
    fn patterns_name_their_files() {
        assert_eq!(names("p_%03d.raw 1 3 1", 9), ["p_001.raw", "p_002.raw", "p_003.raw"]);
        assert_eq!(names("p%d 5", 2), ["p5", "p6"]);
        assert_eq!(names("p%d", 2), ["p1", "p2"]);
        assert_eq!(names("p%2d.z 8 12 2", 3), ["p 8.z", "p10.z", "p12.z"]);
    }

    #[test]
    fn senseless_patterns_are_refused() {
        for value in
            ["p%s", "p%", "p%03x.raw", "p%d 1 9 0", "p%d 1 9 -1", "p%d one", "p%999999999999999999999d"]
        {
            let message = DataFiles::parse(value, Path::new("scan.mhd")).unwrap_err().to_string();
            let start = format!("scan.mhd: ElementDataFile is {value:?}, needs a pattern");
            assert!(message.starts_with(&start), "{message}");
        }
    }
}
