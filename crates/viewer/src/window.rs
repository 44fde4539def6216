//! The app in a native window: `diffmoe-viewer`, and `diffmoe window` in builds that include it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use diffmoe::pipeline::Backend;
use diffmoe::vae::DecoderFile;

use crate::session::{ModelSource, Share};
use crate::{App, Launch, platform, window_icon};

/// Draw images with a DiffMoE model and see which expert works on which token.
#[derive(clap::Args)]
#[command(after_help = "Examples of options:
  --model my-model.safetensors
  --model latent-model.safetensors --vae taesd.safetensors
  --share '#model=emoji&seed=7&…'     # as copied by \"Copy link\"")]
pub struct Arguments {
    /// Embedded model, or a safetensors file.
    #[arg(long, value_name = "NAME|FILE", default_value = diffmoe_models::DEFAULT)]
    model: PathBuf,
    /// Image decoder for a model that generates latents: a safetensors file of diffusers, as for `sample --vae`.
    #[arg(long, value_name = "FILE")]
    vae: Option<PathBuf>,
    /// Draw a shared run: the part of a link from # on, or the whole link.
    #[arg(long, value_name = "LINK")]
    share: Option<String>,
    /// Where to compute. The window itself is painted by the GPU in any case.
    #[arg(long, value_parser = backend_parser(), default_value = "auto")]
    backend: Backend,
    /// Folder of kept images [default: diffmoe/gallery in the user's data folder].
    #[arg(long, value_name = "FOLDER")]
    gallery: Option<PathBuf>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            model: diffmoe_models::DEFAULT.into(),
            vae: None,
            share: None,
            backend: Backend::Auto,
            gallery: None,
        }
    }
}

/// `--backend`, from the library's table.
fn backend_parser() -> impl TypedValueParser<Value = Backend> {
    let rows = Backend::ALL.iter().map(|b| PossibleValue::new(b.name()).help(b.hint()));
    PossibleValuesParser::new(rows).try_map(|name| name.parse::<Backend>())
}

/// Size of the window at first, and the least that is of use.
const SIZE: [f32; 2] = [1280.0, 800.0];
const LEAST: [f32; 2] = [340.0, 480.0];

/// Opens the window and runs the app until it is closed.
///
/// # Errors
/// A sentence where the model, the link or the display is at fault.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let launch = launch(arguments)?;
    let viewport = egui::ViewportBuilder::default()
        .with_title("DiffMoE")
        .with_app_id("diffmoe")
        .with_inner_size(SIZE)
        .with_min_inner_size(LEAST)
        .with_icon(window_icon());
    let options = eframe::NativeOptions { viewport, ..eframe::NativeOptions::default() };
    let create = |context: &eframe::CreationContext<'_>| -> Result<Box<dyn eframe::App>, _> {
        Ok(Box::new(App::new(&context.egui_ctx, launch)))
    };
    match eframe::run_native("DiffMoE", options, Box::new(create)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(explain(&error).into()),
    }
}

fn launch(arguments: &Arguments) -> Result<Launch, Box<dyn std::error::Error>> {
    let share = match &arguments.share {
        Some(link) => {
            Some(Share::parse(link.rsplit_once('#').map_or(link.as_str(), |(_, part)| part))?)
        }
        None => None,
    };
    let embedded = diffmoe_models::names().find(|name| Path::new(name) == arguments.model);
    let model = if let Some(name) = embedded {
        ModelSource::Named(name.to_owned())
    } else {
        let path = &arguments.model;
        if !path.exists() {
            // The same sentence as the other commands have.
            diffmoe_models::open_any(&arguments.model)?;
        }
        ModelSource::Path(path.to_owned())
    };
    if let Some(path) = arguments.vae.as_deref().filter(|path| !path.exists()) {
        // The same sentence as the other commands have.
        DecoderFile::open(path)?;
    }
    Ok(Launch {
        model,
        decoder: arguments.vae.clone().map(ModelSource::Path),
        share,
        backend: arguments.backend,
        draw_at_once: true,
        recording: None,
        gallery: arguments.gallery.clone().or_else(platform::gallery_folder),
        problem: None,
    })
}

/// Why there is no window, and what works without one.
fn explain(error: &eframe::Error) -> String {
    let instead = "`diffmoe sample` draws without a window, and `cargo xtask web --serve` opens the app in a browser";
    match error {
        eframe::Error::Winit(_) | eframe::Error::WinitEventLoop(_) => {
            // The error itself names source files of the window library.
            format!("there is no display to open a window on; {instead}")
        }
        eframe::Error::Wgpu(_) => format!(
            "no graphics driver can paint a window here ({error}); install one (Mesa's lavapipe will do); {instead}"
        ),
        eframe::Error::AppCreation(_) => format!("the app could not start: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_whole_or_from_its_mark_on() {
        let fragment = "model=emoji&seed=7&steps=30&guidance=2&labels=varied,any";
        let read = |link: String| launch(&Arguments { share: Some(link), ..Arguments::default() });
        for link in [
            fragment.to_owned(),
            format!("#{fragment}"),
            format!("https://example.org/x/#{fragment}"),
        ] {
            assert_eq!(read(link).unwrap().share.unwrap().controls.sampling.seed, 7);
        }
        let Err(error) = read("#seed=no".into()) else { panic!("it was read") };
        assert!(error.to_string().contains("seed"), "{error}");
    }

    #[test]
    fn models_are_names_or_files_that_exist() {
        let named =
            |model: &str| launch(&Arguments { model: model.into(), ..Arguments::default() });
        assert!(
            matches!(named("eurosat").unwrap().model, ModelSource::Named(name) if name == "eurosat")
        );
        assert!(
            matches!(named("Cargo.toml").unwrap().model, ModelSource::Path(_)),
            "the session reports its content"
        );
        let decoder =
            |path: &str| launch(&Arguments { vae: Some(path.into()), ..Arguments::default() });
        assert!(matches!(decoder("Cargo.toml").unwrap().decoder, Some(ModelSource::Path(_))));
        let Err(error) = decoder("nowhere.safetensors") else { panic!("it was opened") };
        assert!(error.to_string().contains("nowhere.safetensors"), "{error}");
        let Err(error) = named("nowhere.safetensors") else { panic!("it was opened") };
        assert!(error.to_string().contains("nowhere.safetensors"), "{error}");
    }
}
