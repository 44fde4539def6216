//! Settings inside PNG files: written in two forms, ours and that of other tools; read from either.

use super::data::{Recipe, RecipeError};
use super::parameters::Parameters;
use crate::pixels::{self, PngTextError};

/// Keyword of the text with a [`Recipe`].
pub const SETTINGS_KEYWORD: &str = "diffmoe";
/// Keyword under which image tools of this field keep settings.
const PARAMETERS: &str = "parameters";

/// The settings that a PNG file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Saved {
    /// Of a run of ours: everything.
    Recipe(Box<Recipe>),
    /// Of another program: some of them mean the same here.
    Parameters(Parameters),
}

/// Why a PNG file gives no settings.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] PngTextError),
    /// Settings of ours, and something is wrong with them.
    #[error("{0}. The file was changed or made by a later version")]
    Recipe(#[from] RecipeError),
    /// No settings that anybody here understands.
    #[error(
        "the file contains no settings: expected a text \"{SETTINGS_KEYWORD}\", or \"{PARAMETERS}\" with steps, seed or \
         CFG scale. Programs that forward images often remove them"
    )]
    Nothing,
}

impl Saved {
    /// The settings inside a PNG file, ours before those of others.
    ///
    /// # Errors
    /// When the file is no PNG, is damaged before its settings, or holds none.
    pub fn from_png(bytes: &[u8]) -> Result<Self, SavedError> {
        if let Some(text) = pixels::text(bytes, SETTINGS_KEYWORD)? {
            return Ok(Self::Recipe(Box::new(Recipe::parse(&text)?)));
        }
        let text = pixels::text(bytes, PARAMETERS)?;
        let parameters = text.and_then(|text| Parameters::parse(&text));
        parameters.map(Self::Parameters).ok_or(SavedError::Nothing)
    }
}

/// The texts of a PNG file with images of a run, for [`to_png`](pixels::RgbImage::to_png): `names` says what its images
/// show, `size` is the height and width of one.
pub fn png_texts(
    recipe: &Recipe,
    names: &[String],
    size: [usize; 2],
) -> [(&'static str, String); 2] {
    let parameters = Parameters::of(recipe, names, size).to_string();
    [(PARAMETERS, parameters), (SETTINGS_KEYWORD, recipe.to_text())]
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::config;
    use super::*;
    use crate::pipeline::Settings;
    use crate::pixels::RgbImage;

    fn png(texts: &[(&str, String)]) -> Vec<u8> {
        RgbImage::from_raw(1, 1, vec![7; 3]).unwrap().to_png(texts).unwrap()
    }

    #[test]
    fn a_file_restores_its_run() {
        let config = config();
        let settings = Settings::builder(&config).images(4).seed(7).build().unwrap();
        let mut recipe = Recipe::of(&settings, &config);
        recipe.model = Some("größer & kleiner".into());
        let file = png(&png_texts(&recipe, &["ant".to_owned()], [8, 8]));
        assert_eq!(Saved::from_png(&file), Ok(Saved::Recipe(Box::new(recipe))));
        // Cut after the settings they are still there.
        assert!(Saved::from_png(&file[..file.len() - 20]).is_ok());
    }

    #[test]
    fn files_of_others_and_files_without_settings() {
        let foreign = png(&[("parameters", "a fox\nSteps: 20, Seed: 3, CFG scale: 7".into())]);
        let Ok(Saved::Parameters(parameters)) = Saved::from_png(&foreign) else { panic!() };
        assert_eq!(parameters.seed(), Some(3));
        let refused = |file: &[u8]| Saved::from_png(file).unwrap_err();
        assert_eq!(refused(&png(&[])), SavedError::Nothing);
        assert_eq!(refused(&png(&[("parameters", "a fox".into())])), SavedError::Nothing);
        let wrong = refused(&png(&[("diffmoe", "seed=1&steps=0".into())]));
        assert!(wrong.to_string().contains("invalid steps"), "{wrong}");
        assert_eq!(refused(b"GIF89a"), SavedError::File(PngTextError::NotPng));
    }
}
