//! Where the weights are.

use super::args::WeightsArg;
use pdac_cascade::pipeline::PipelineError;
use pdac_cascade::pipeline::panorama::recipe_in;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the platform unpacks a model.
const PLATFORM_FOLDER: &str = "/opt/ml/model";

/// The recipe to use: the one in the folder given, or in the first usual folder that has one.
///
/// A model that the platform has unpacked and that has no recipe is an error: other weights must not silently take its place.
pub fn find_recipe(arg: &WeightsArg) -> Result<PathBuf, PipelineError> {
    if let Some(folder) = &arg.weights {
        return Ok(recipe_in(folder));
    }
    let unpacked = Path::new(PLATFORM_FOLDER);
    if !recipe_in(unpacked).is_file() {
        refuse_without_recipe(unpacked)?;
    }
    let folders = usual_folders();
    let recipes: Vec<PathBuf> = folders.iter().map(|f| recipe_in(f)).collect();
    match recipes.iter().find(|r| r.is_file()) {
        Some(recipe) => Ok(recipe.clone()),
        None => {
            let looked: Vec<_> = recipes.iter().map(|r| r.display().to_string()).collect();
            let what =
                format!("no such file, nor {}; name the folder with --weights", looked[1..].join(", "));
            Err(PipelineError::Recipe { path: recipes[0].clone(), what })
        }
    }
}

/// An error that names something in a folder that has no recipe; an empty or missing folder is none.
fn refuse_without_recipe(folder: &Path) -> Result<(), PipelineError> {
    let Some(entry) = fs::read_dir(folder).into_iter().flatten().flatten().next() else { return Ok(()) };
    let what = format!("no such file, though {} is there", entry.path().display());
    Err(PipelineError::Recipe { path: recipe_in(folder), what })
}

/// The platform's model folder, `weights` beside the program, `weights` in the working directory.
fn usual_folders() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(|p| p.join("weights"));
    [Some(PathBuf::from(PLATFORM_FOLDER)), beside, Some(PathBuf::from("weights"))]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_a_recipe_is_refused_and_an_empty_folder_is_not() {
        let folder = tempfile::tempdir().unwrap();
        refuse_without_recipe(folder.path()).unwrap();
        refuse_without_recipe(Path::new("/nowhere")).unwrap();
        fs::create_dir(folder.path().join("model")).unwrap();
        let error = refuse_without_recipe(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("panorama/pipeline.json: no such file, though ")
                && error.ends_with("/model is there")
        );
    }
}
