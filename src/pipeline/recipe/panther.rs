//! The recipe of tumour segmentation in MRI.

use super::{ModelRun, PancreasStage, Roi};
use crate::detection::ComponentRules;
use crate::nnunet::model_folder::Fold;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Weights that members can have: in this range none is lost in float32 beside another.
const WEIGHTS: RangeInclusive<f64> = 1e-6..=1e6;

/// Numbers of one PANTHER task.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PantherRecipe {
    /// Was read before.
    #[serde(rename = "system")]
    _system: IgnoredAny,
    /// Remark on the weights, logged at every run (optional).
    #[serde(default)]
    pub note: Option<String>,
    /// Models whose answers are averaged; at least one.
    pub members: Vec<MemberRun>,
    /// What is averaged.
    #[serde(default)]
    pub average: Average,
    /// Label of the tumour; all others are removed from the output.
    pub tumour_label: u16,
    /// First stage: finds the pancreas in the scan at low resolution; `null`: there is none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub pancreas: Option<PancreasStage>,
    /// Region around the pancreas that the members see; `null`: they see the whole scan.
    #[serde(deserialize_with = "Option::deserialize")]
    pub roi: Option<Roi>,
    /// Which components of the predicted tumour stay.
    pub postprocessing: ComponentRules,
}

/// A member of the ensemble: a [`ModelRun`] and its weight.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "FlatMemberRun")]
pub struct MemberRun {
    /// The network.
    pub model: ModelRun,
    /// How much its answer counts, relative to the others.
    pub weight: f64,
}

/// A member as JSON has it: the model's keys and `weight` (1 if it is left out) side by side.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlatMemberRun {
    folder: PathBuf,
    folds: Vec<Fold>,
    checkpoint: String,
    mirroring: bool,
    step: f64,
    #[serde(default = "one")]
    weight: f64,
}

fn one() -> f64 {
    1.0
}

impl From<FlatMemberRun> for MemberRun {
    fn from(flat: FlatMemberRun) -> Self {
        let FlatMemberRun { folder, folds, checkpoint, mirroring, step, weight } = flat;
        Self { model: ModelRun { folder, folds, checkpoint, mirroring, step }, weight }
    }
}

/// What of several members is averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// Logits of members that prepare scans alike, probabilities of groups that do not.
    #[default]
    Auto,
    /// Logits; members that do not prepare scans alike are an error.
    Logits,
    /// Probabilities on the scan's grid, of every member.
    Probabilities,
}

impl PantherRecipe {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.members.is_empty() {
            return Err("members is empty, an ensemble needs at least one".to_owned());
        }
        for (number, member) in self.members.iter().enumerate() {
            member.model.check(&format!("members[{number}]"))?;
            if !WEIGHTS.contains(&member.weight) {
                let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
                let weight = member.weight;
                return Err(format!(
                    "members[{number}].weight is {weight}, needs a number from {least} to {most}"
                ));
            }
        }
        if let Some(pancreas) = &self.pancreas {
            pancreas.check()?;
        }
        if let Some(roi) = &self.roi {
            roi.check()?;
        }
        self.postprocessing.check().map_err(|what| format!("postprocessing.{what}"))?;
        let asks = [
            (self.roi.is_some(), "roi is asked for"),
            (
                self.postprocessing.min_pancreas_overlap > 0.0,
                "postprocessing.min_pancreas_overlap is above 0",
            ),
        ];
        match (&self.pancreas, asks.into_iter().find(|(asks, _)| *asks)) {
            (None, Some((_, what))) => Err(format!("{what}, but pancreas is null: no first stage finds one")),
            (Some(_), None) => Err("pancreas is there, but neither roi nor \
                postprocessing.min_pancreas_overlap asks for it"
                .to_owned()),
            _ => Ok(()),
        }
    }
}
