//! `--like FILE.png`: the settings inside a saved image.

use std::path::Path;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::pipeline::{Recipe, Saved};

use super::super::checksum::short_hash;

/// A saved image to reproduce.
pub(super) struct Like {
    path: String,
    saved: Saved,
}

impl Like {
    /// Reads the settings of a PNG file.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        let saved = Saved::from_png(&bytes).map_err(|error| format!("{shown}: {error}"))?;
        Ok(Self { path: shown, saved })
    }

    /// The model of the file, as a name or path; the default for files of other programs.
    pub(super) fn model(&self) -> Result<String, String> {
        let Saved::Recipe(recipe) = &self.saved else {
            return Ok(diffmoe_models::DEFAULT.to_owned());
        };
        let Some(name) = &recipe.model else { return Ok(diffmoe_models::DEFAULT.to_owned()) };
        let can_open = diffmoe_models::names().any(|known| known == name);
        // A file of that name here is opened; whether it is the same one, its checksum says.
        if can_open || Path::new(name).is_file() {
            return Ok(name.clone());
        }
        let sum = recipe.hash.as_ref().map(|hash| format!(" (SHA-256 {hash}…)"));
        Err(format!(
            "{} was made with {name}{}, which was not found. Set its path with --model FILE",
            self.path,
            sum.unwrap_or_default()
        ))
    }

    /// All its settings; notes on stderr if the images will differ.
    pub(super) fn recipe(self, checkpoint: &Checkpoint) -> Result<Recipe, String> {
        let config = checkpoint.config();
        match self.saved {
            Saved::Recipe(recipe) => {
                if !recipe.agrees_with(&short_hash(checkpoint)) {
                    let model = &config.name;
                    let path = &self.path;
                    eprintln!(
                        "note: {path} was made with another version of {model}; the images will differ"
                    );
                }
                match recipe.builder(config) {
                    Ok(_) => Ok(*recipe),
                    Err(error) => Err(format!("{}: {error}", self.path)),
                }
            }
            Saved::Parameters(parameters) => {
                let (recipe, left_out) = parameters.recipe(config);
                let left_out: String =
                    left_out.iter().fold(String::new(), |text, reason| format!("{text}; {reason}"));
                let from = parameters.get("Model").unwrap_or("another program");
                eprintln!(
                    "note: {} was made with {from}: using its seed, steps and guidance{left_out}",
                    self.path
                );
                Ok(recipe)
            }
        }
    }
}
