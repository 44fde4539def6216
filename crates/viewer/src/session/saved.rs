//! Saved images contain the settings of their run: dropping one restores them and draws the run again.

use super::{NoteKind, Origin, Session, Share};
use diffmoe::pipeline::{Parameters, Saved, SavedError};

/// Whether a file is a PNG, by its first bytes.
pub fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}

impl Session {
    /// Restores the settings of a saved image and draws its run again; from other programs' files as far as they apply. An
    /// image without settings becomes the one that runs start from.
    pub fn open_png(&mut self, name: &str, bytes: &[u8]) {
        match Saved::from_png(bytes) {
            Ok(Saved::Recipe(recipe)) => {
                match Share::of_recipe(*recipe, Origin::File(name.to_owned())) {
                    Ok(share) => {
                        let text = format!("Restored the settings in {name}.");
                        self.note(NoteKind::Info, text);
                        self.open_share(share);
                    }
                    Err(reason) => self.note(NoteKind::Error, reason),
                }
            }
            Ok(Saved::Parameters(parameters)) => self.open_parameters(name, &parameters),
            // An image like any other: something to start from.
            Err(SavedError::Nothing) if self.model.is_some() => self.start_from_png(name, bytes),
            Err(error) => self.note(NoteKind::Error, format!("{name}: {error}")),
        }
    }

    /// Draws with the open model and another program's settings.
    fn open_parameters(&mut self, name: &str, parameters: &Parameters) {
        let Some(model) = &self.model else {
            let text = format!("{name} was made by another program. Open a model first");
            return self.note(NoteKind::Error, text);
        };
        let config = &model.info.config;
        let (recipe, left_out) = parameters.recipe(config);
        let share = Share::of_recipe(recipe, Origin::File(name.to_owned()));
        let share = share.and_then(|mut share| share.resolve(config).map(|()| share));
        match share {
            Ok(share) => {
                let elsewhere = parameters.get("Model").unwrap_or("another program");
                let left_out = left_out.iter().map(|reason| format!("; {reason}"));
                let text = format!(
                    "{name} was made with {elsewhere}. Using its seed, steps and guidance{}.",
                    left_out.collect::<String>()
                );
                self.note(NoteKind::Info, text);
                self.controls = share.controls;
                self.generate();
            }
            Err(reason) => self.note(NoteKind::Error, reason),
        }
    }
}
