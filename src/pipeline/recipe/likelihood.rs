//! How a patient's likelihood comes about where the second stage has a classification head.

use crate::detection::{Combine, PatchRule};
use crate::nnunet::model_folder::ModelFolder;
use serde::Deserialize;

/// How the likelihood comes from the classification head and the detection map. Every key may be left out.
///
/// Neither is stated in the PANORAMA report that the head comes from: both defaults are this project's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LikelihoodRule {
    /// How the head's probability and the map's maximum are joined.
    pub combine: Combine,
    /// How a region larger than a patch gets one probability of the head.
    pub patches: PatchRule,
}

impl LikelihoodRule {
    /// Whether a rule and the second stage's model fit each other: a head that is to be asked must be there, and one that is there
    /// must be mentioned.
    pub(in crate::pipeline) fn check(rule: Option<&Self>, model: &ModelFolder) -> Result<(), String> {
        let folder = model.path.display();
        let asks = rule.is_some_and(|rule| rule.combine != Combine::MapOnly);
        match (rule, model.classifies()) {
            (Some(_), false) if asks => Err(format!(
                "likelihood asks for a classification head, {folder}: checkpoint {} has none (no tensor classifier.*); without one, \
                 leave likelihood out or set its combine to \"map_only\"",
                model.checkpoint_name
            )),
            (None, true) => Err(format!(
                "lesion.model has a classification head, {folder}: checkpoint {} has tensors classifier.*; expected the key \
                 likelihood, such as {{\"combine\": \"mean\"}} or, to ignore the head, {{\"combine\": \"map_only\"}}",
                model.checkpoint_name
            )),
            _ => Ok(()),
        }
    }
}

/// Refuses a classification head where nothing would ask it.
pub(in crate::pipeline) fn check_no_head(at: &str, model: &ModelFolder) -> Result<(), String> {
    if model.classifies() {
        let folder = model.path.display();
        return Err(format!(
            "{at} has a classification head, {folder}: tensors classifier.*; only lesion.model of panorama may"
        ));
    }
    Ok(())
}
