//! `--like FILE.png`: the settings inside a saved picture.

use std::path::Path;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::pipeline::{Recipe, Saved};

use super::super::checksum::short_hash;

/// A saved picture that is to be drawn again.
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

    /// The model that drew it, by a name that can be opened; the usual one for a file of another program.
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
            "{} was drawn with {name}{}, which is not here: give its place with --model FILE",
            self.path,
            sum.unwrap_or_default()
        ))
    }

    /// All its settings; says on stderr where the pictures will differ.
    pub(super) fn recipe(self, checkpoint: &Checkpoint) -> Result<Recipe, String> {
        let config = checkpoint.config();
        match self.saved {
            Saved::Recipe(recipe) => {
                if !recipe.agrees_with(&short_hash(checkpoint)) {
                    let model = &config.name;
                    let path = &self.path;
                    eprintln!(
                        "note: {path} was drawn with another version of {model}, so this one will differ"
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
                    left_out.iter().map(|reason| format!("; {reason}")).collect();
                let from = parameters.get("Model").unwrap_or("another program");
                eprintln!(
                    "note: {} was made with {from}: seed, steps and guidance are its own{left_out}",
                    self.path
                );
                Ok(recipe)
            }
        }
    }
}
