//! `--init-image` and `--mask`: the image that a run starts from, and the part of it that stays.

use std::path::Path;

use diffmoe::checkpoint::TensorFile;
use diffmoe::model::Config;
use diffmoe::pipeline::InitImage;
use diffmoe::pixels::RgbImage;

use super::Arguments;

/// The image of the command line, if there is one.
pub(super) fn read(
    arguments: &Arguments,
    config: &Config,
) -> Result<Option<InitImage>, Box<dyn std::error::Error>> {
    let Some(path) = &arguments.init_image else { return Ok(None) };
    let is_latents = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let image = if is_latents {
        InitImage::of_sample(latents(path, config)?)
    } else {
        InitImage::of_pixels(&pixels(path)?, config)?
    };
    Ok(Some(match &arguments.mask {
        Some(path) => image.with_mask_image(&pixels(path)?, config),
        None => image,
    }))
}

fn pixels(path: &Path) -> Result<RgbImage, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    RgbImage::read(&bytes).map_err(|error| format!("{shown}: {error}"))
}

/// The first latents of a file.
fn latents(path: &Path, config: &Config) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let file = TensorFile::open(path)?;
    let [height, width] = config.input_size;
    let shape = file.shape("latents").map(<[_]>::to_vec);
    match shape.as_deref() {
        Ok([batch, channels, h, w])
            if *batch > 0 && [*channels, *h, *w] == [config.in_channels, height, width] =>
        {
            let mut values = file.read("latents")?;
            values.truncate(config.sample_len());
            Ok(values)
        }
        Ok(shape) => Err(format!(
            "latents in {} have shape {shape:?}; {} needs [B, {}, {height}, {width}]",
            file.label(),
            config.name,
            config.in_channels
        )
        .into()),
        Err(_) => Err(format!("{} has no tensor \"latents\"", file.label()).into()),
    }
}
