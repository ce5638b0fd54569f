//! Where the weights are.

use super::args::WeightsArg;
use pdac_cascade::challenge::{INTERFACES, Interface};
use pdac_cascade::pipeline::{PipelineError, System};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the platform unpacks a model.
const PLATFORM_FOLDER: &str = "/opt/ml/model";

/// A folder of weights, which has a recipe of some task unless the user named it.
pub struct WeightsFolder(PathBuf);

impl WeightsFolder {
    /// The folder given, or the first usual one that has a recipe.
    ///
    /// A model that the platform has unpacked and that has no recipe is an error: other weights must not silently take its place.
    pub fn find(arg: &WeightsArg) -> Result<Self, PipelineError> {
        if let Some(folder) = &arg.weights {
            return Ok(Self(folder.clone()));
        }
        let unpacked = Self(PathBuf::from(PLATFORM_FOLDER));
        if unpacked.recipes().is_empty() {
            unpacked.refuse_without_recipe()?;
        }
        let folders = usual_folders().map(Self);
        match folders.iter().position(|folder| !folder.recipes().is_empty()) {
            Some(found) => Ok(Self(folders[found].0.clone())),
            None => Err(none_in(&folders)),
        }
    }

    /// The task's recipe.
    fn recipe(&self, interface: &Interface) -> PathBuf {
        self.0.join(interface.name).join("pipeline.json")
    }

    /// The tasks that have a recipe here.
    fn recipes(&self) -> Vec<Interface> {
        INTERFACES.into_iter().filter(|interface| self.recipe(interface).exists()).collect()
    }

    /// The task's system with its models checked, their weights not yet read.
    pub fn open(&self, interface: &Interface) -> Result<System, PipelineError> {
        let recipe = self.recipe(interface);
        let others: Vec<&str> = self.recipes().iter().map(|i| i.name).collect();
        if !others.is_empty() && !recipe.exists() {
            let what = format!("no such file; there are recipes for {}", others.join(", "));
            return Err(PipelineError::Recipe { path: recipe, what });
        }
        tracing::info!(recipe = %recipe.display(), "models");
        let system = System::open(&recipe)?;
        if system.name() != interface.system {
            let (got, task, needed) = (system.name(), interface.task, interface.system);
            let what = format!("system is {got:?}, {task} needs {needed:?}");
            return Err(PipelineError::Recipe { path: recipe, what });
        }
        if let Some(note) = system.note() {
            tracing::warn!("{note}");
        }
        Ok(system)
    }

    /// The systems of all tasks that have a recipe here, with the recipes.
    pub fn open_all(&self) -> Result<Vec<(Interface, PathBuf, System)>, PipelineError> {
        let recipes = self.recipes();
        if recipes.is_empty() {
            return Err(none_in(&[Self(self.0.clone())]));
        }
        let open = |interface: Interface| Ok((interface, self.recipe(&interface), self.open(&interface)?));
        recipes.into_iter().map(open).collect()
    }

    /// An error that names something in a folder that has no recipe; an empty or missing folder is none.
    fn refuse_without_recipe(&self) -> Result<(), PipelineError> {
        let Some(entry) = fs::read_dir(&self.0).into_iter().flatten().flatten().next() else { return Ok(()) };
        let what = format!("holds no {}, though {} is there", expected(), entry.path().display());
        Err(PipelineError::Recipe { path: self.0.clone(), what })
    }
}

fn none_in(folders: &[WeightsFolder]) -> PipelineError {
    let others: Vec<_> = folders[1..].iter().map(|folder| folder.0.display().to_string()).collect();
    let nor = if others.is_empty() { String::new() } else { format!(", nor does {}", others.join(", ")) };
    let what = format!("holds no {}{nor}; name the folder with --weights", expected());
    PipelineError::Recipe { path: folders[0].0.clone(), what }
}

/// Where a folder of weights may have a recipe.
fn expected() -> String {
    INTERFACES.map(|interface| format!("{}/pipeline.json", interface.name)).join(" or ")
}

/// The platform's model folder, `weights` beside the program, `weights` in the working directory.
fn usual_folders() -> [PathBuf; 3] {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).unwrap_or(Path::new(".")).join("weights");
    [PathBuf::from(PLATFORM_FOLDER), beside, PathBuf::from("weights")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_a_recipe_is_refused_and_an_empty_folder_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let weights = WeightsFolder(folder.path().to_owned());
        weights.refuse_without_recipe().unwrap();
        WeightsFolder(PathBuf::from("/nowhere")).refuse_without_recipe().unwrap();
        fs::create_dir(folder.path().join("model")).unwrap();
        let error = weights.refuse_without_recipe().unwrap_err().to_string();
        assert!(
            error.contains(": holds no panorama/pipeline.json or panther-t1/pipeline.json or panther-t2/pipeline.json, though ")
                && error.ends_with("/model is there"),
            "{error}"
        );
    }

    #[test]
    fn a_task_without_a_recipe_is_told_which_have_one() {
        let weights = WeightsFolder(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
        assert!(
            weights.open_all().unwrap_err().to_string().contains("tests: holds no panorama/pipeline.json")
        );
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("panther-t2")).unwrap();
        fs::write(folder.path().join("panther-t2/pipeline.json"), "").unwrap();
        let error = WeightsFolder(folder.path().to_owned()).open(&INTERFACES[0]).unwrap_err().to_string();
        assert!(
            error.ends_with("panorama/pipeline.json: no such file; there are recipes for panther-t2"),
            "{error}"
        );
    }
}
