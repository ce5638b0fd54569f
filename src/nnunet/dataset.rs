//! `dataset.json`: what goes into the network, and what its heads mean.

use super::error::ModelError;
use super::json::{self, Node};
use serde_json::Value;
use std::path::Path;

/// Largest label: nnU-Net stores segmentations in 16 bits at most.
const MAX_LABEL: usize = u16::MAX as usize;

/// A validated `dataset.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Name of every input channel, by channel number (`channel_names`, or `modality` in old files).
    pub channel_names: Vec<String>,
    /// Every entry of `labels` except `ignore`, in file order.
    pub labels: Vec<(String, Label)>,
    /// The label of voxels that training ignored; the network has no head for it.
    pub ignore_label: Option<u16>,
    /// What the network's heads mean.
    pub output: OutputKind,
}

/// Names in file order and what they stand for.
type NamedLabels = Vec<(String, Label)>;

/// What a name in `labels` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// One value of the segmentation.
    Value(u16),
    /// The union of several values (a list in the file, even of one).
    Region(Vec<u16>),
}

/// What the network's segmentation heads mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// Softmax; the segmentation is the index of the largest head.
    Labels {
        /// Number of heads: distinct labels, background included.
        classes: usize,
    },
    /// One sigmoid per region; every voxel starts at 0 and is painted head after head where probability > 0.5.
    Regions {
        /// Label that each head paints (`regions_class_order`), in head order.
        paint_order: Vec<u16>,
    },
}

impl OutputKind {
    /// Number of segmentation heads.
    pub fn heads(&self) -> usize {
        match self {
            Self::Labels { classes } => *classes,
            Self::Regions { paint_order } => paint_order.len(),
        }
    }
}

impl Dataset {
    /// The dataset that the file describes.
    ///
    /// Rules of nnU-Net's `LabelManager` (`label_handling.py`) and `determine_num_input_channels`.
    ///
    /// # Errors
    /// If the file cannot be read or breaks those rules.
    pub fn read(file: &Path) -> Result<Self, ModelError> {
        Self::from_value(file, &json::read(file)?)
    }

    /// The dataset that `text` describes; `file` is named in errors.
    ///
    /// # Errors
    /// If the text breaks nnU-Net's rules.
    pub fn from_json(file: &Path, text: &str) -> Result<Self, ModelError> {
        Self::from_value(file, &json::parse(file, text.as_bytes())?)
    }

    /// Number of image channels that the network reads.
    pub fn input_channels(&self) -> usize {
        self.channel_names.len()
    }

    /// The labels in file order, as in "background 0, tumor 1".
    pub fn described_labels(&self) -> String {
        let described = self.labels.iter().map(|(name, label)| match label {
            Label::Value(value) => format!("{name} {value}"),
            Label::Region(values) => format!("{name} {values:?}"),
        });
        described.collect::<Vec<_>>().join(", ")
    }

    fn from_value(file: &Path, value: &Value) -> Result<Self, ModelError> {
        let root = Node::root(file, value);
        let channels = match root.get("modality")? {
            Some(modality) => modality,
            None => root.field("channel_names")?,
        };
        let channel_names = channel_names(&channels)?;
        let node = root.field("labels")?;
        let (labels, ignore_label) = labels(&node)?;
        let distinct = distinct_labels(&labels);
        check_ignore_label(&node, ignore_label, distinct.last().copied())?;
        let has_regions = labels.iter().any(|(_, label)| matches!(label, Label::Region(r) if r.len() > 1));
        let output = if has_regions {
            OutputKind::Regions { paint_order: paint_order(&root, &labels)? }
        } else {
            OutputKind::Labels { classes: distinct.len() }
        };
        Ok(Self { channel_names, labels, ignore_label, output })
    }
}

/// Names by channel number; the keys must be "0", "1", … in any order.
fn channel_names(node: &Node<'_>) -> Result<Vec<String>, ModelError> {
    let members = node.members()?;
    let mut names = vec![None; members.len()];
    for (key, name) in &members {
        let slot = key.parse::<usize>().ok().and_then(|i| names.get_mut(i));
        let slot = slot.ok_or_else(|| node.malformed("one name for each of the keys \"0\", \"1\", …"))?;
        *slot = Some(name.text()?.to_owned());
    }
    let names: Option<Vec<String>> = names.into_iter().collect();
    names
        .filter(|n| !n.is_empty())
        .ok_or_else(|| node.malformed("one name for each of the keys \"0\", \"1\", …"))
}

/// Labels in file order, and the ignore label.
fn labels(node: &Node<'_>) -> Result<(NamedLabels, Option<u16>), ModelError> {
    let mut labels = Vec::new();
    let mut ignore = None;
    for (name, value) in node.members()? {
        if name == "ignore" {
            ignore = if value.is_null() { None } else { Some(label(&value)?) };
        } else if value.is_list() {
            let region = value.items()?.iter().map(label).collect::<Result<Vec<u16>, _>>()?;
            if region.is_empty() {
                return Err(value.malformed("at least one label"));
            }
            labels.push((name.to_owned(), Label::Region(region)));
        } else {
            labels.push((name.to_owned(), Label::Value(label(&value)?)));
        }
    }
    match labels.iter().find(|(name, _)| name == "background") {
        Some((_, Label::Value(0))) => Ok((labels, ignore)),
        _ => Err(node.malformed("\"background\": 0 among the labels")),
    }
}

fn label(node: &Node<'_>) -> Result<u16, ModelError> {
    Ok(node.integer(0..=MAX_LABEL)? as u16)
}

/// Every value that occurs, ascending, once.
fn distinct_labels(labels: &[(String, Label)]) -> Vec<u16> {
    let values = labels.iter().flat_map(|(_, label)| match label {
        Label::Value(value) => std::slice::from_ref(value),
        Label::Region(values) => values.as_slice(),
    });
    let mut distinct: Vec<u16> = values.copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

fn check_ignore_label(node: &Node<'_>, ignore: Option<u16>, last: Option<u16>) -> Result<(), ModelError> {
    match (ignore, last) {
        (Some(ignore), Some(last)) if usize::from(ignore) != usize::from(last) + 1 => Err(node
            .field("ignore")?
            .malformed(&format!("{}, the label after the highest", usize::from(last) + 1))),
        _ => Ok(()),
    }
}

/// `regions_class_order`, one entry for each label or region that is not background alone.
fn paint_order(root: &Node<'_>, labels: &[(String, Label)]) -> Result<Vec<u16>, ModelError> {
    let is_background = |label: &Label| match label {
        Label::Value(value) => *value == 0,
        Label::Region(values) => values.iter().all(|v| *v == 0),
    };
    let regions = labels.iter().filter(|(_, label)| !is_background(label)).count();
    let node = root.field("regions_class_order")?;
    let order = node.items()?.iter().map(label).collect::<Result<Vec<u16>, _>>()?;
    if order.len() == regions {
        Ok(order)
    } else {
        Err(node.malformed(&format!("{regions} entries, one for each region in \"labels\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(labels: &str, rest: &str) -> Result<Dataset, String> {
        let text = format!(r#"{{"channel_names": {{"0": "CT"}}, "labels": {labels}{rest}}}"#);
        Dataset::from_json(Path::new("dataset.json"), &text).map_err(|e| e.to_string())
    }

    #[test]
    fn labels_are_counted_once_and_without_ignore() {
        let got = dataset(r#"{"background": 0, "a": 1, "b": [2], "c": 2, "ignore": 3}"#, "").unwrap();
        assert_eq!(got.output, OutputKind::Labels { classes: 3 });
        assert_eq!(got.ignore_label, Some(3));
        assert_eq!(got.input_channels(), 1);
    }

    #[test]
    fn regions_paint_in_class_order_and_skip_background() {
        let labels = r#"{"background": 0, "nothing": [0, 0], "whole": [1, 2], "core": 2}"#;
        let got = dataset(labels, r#", "regions_class_order": [1, 2]"#).unwrap();
        assert_eq!(got.output, OutputKind::Regions { paint_order: vec![1, 2] });
        assert_eq!(got.output.heads(), 2);
    }

    #[test]
    fn old_files_name_their_channels_modality() {
        let text = r#"{"modality": {"1": "ADC", "0": "T2"}, "channel_names": {}, "labels": {"background": 0, "a": 1}}"#;
        let got = Dataset::from_json(Path::new("dataset.json"), text).unwrap();
        assert_eq!(got.channel_names, ["T2", "ADC"]);
    }

    #[test]
    fn bad_datasets_are_refused_with_their_place() {
        let cases = [
            (r#"{"a": 1}"#, "", r#"labels: expected "background": 0 among the labels, got {"a":1}"#),
            (r#"{"background": [0], "a": 1}"#, "", r#"labels: expected "background": 0 among the labels"#),
            (
                r#"{"background": 0, "a": -1}"#,
                "",
                "labels.a: expected a whole number from 0 to 65535, got -1",
            ),
            (
                r#"{"background": 0, "a": true}"#,
                "",
                "labels.a: expected a whole number from 0 to 65535, got true",
            ),
            (r#"{"background": 0, "a": []}"#, "", "labels.a: expected at least one label, got []"),
            (
                r#"{"background": 0, "a": [1, "x"]}"#,
                "",
                r#"labels.a[1]: expected a whole number from 0 to 65535, got "x""#,
            ),
            (r#"{"background": 0, "a": [1, 2]}"#, "", r#"the file: "regions_class_order" is missing"#),
            (
                r#"{"background": 0, "a": [1, 2]}"#,
                r#", "regions_class_order": [1, 2]"#,
                r#"regions_class_order: expected 1 entries, one for each region in "labels", got [1,2]"#,
            ),
            (
                r#"{"background": 0, "a": 1, "ignore": 1}"#,
                "",
                "labels.ignore: expected 2, the label after the highest",
            ),
            (r#"{"background": 0, "a": 1, "ignore": [2]}"#, "", "labels.ignore: expected a whole number"),
        ];
        for (labels, rest, message) in cases {
            let error = dataset(labels, rest).unwrap_err();
            assert!(error.starts_with(&format!("dataset.json: {message}")), "{labels}: {error}");
        }
        for names in [r#"{"1": "CT"}"#, r#"{"0": "CT", "00": "CT"}"#, "{}", r#"{"T1": "T1"}"#] {
            let text = format!(r#"{{"channel_names": {names}, "labels": {{"background": 0}}}}"#);
            let error = Dataset::from_json(Path::new("dataset.json"), &text).unwrap_err().to_string();
            assert!(error.contains("channel_names: expected one name for each of the keys"), "{error}");
        }
    }
}
