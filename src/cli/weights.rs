//! Where the weights are.

use super::args::WeightsArg;
use pdac_cascade::pipeline::PipelineError;
use pdac_cascade::pipeline::panorama::recipe_in;
use std::path::{Path, PathBuf};

/// The recipe to use: the one in the folder given, or in the first usual folder that has one.
pub fn find_recipe(arg: &WeightsArg) -> Result<PathBuf, PipelineError> {
    if let Some(folder) = &arg.weights {
        return Ok(recipe_in(folder));
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

/// The platform's model folder, `weights` beside the program, `weights` in the working directory.
fn usual_folders() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(|p| p.join("weights"));
    [Some(PathBuf::from("/opt/ml/model")), beside, Some(PathBuf::from("weights"))]
        .into_iter()
        .flatten()
        .collect()
}
