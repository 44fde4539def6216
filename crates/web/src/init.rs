//! `initImage` and `mask`: images of a script, as pixels.

use js_sys::{ArrayBuffer, Reflect, Uint8Array, Uint8ClampedArray};
use wasm_bindgen::prelude::*;

use diffmoe::model::Config;
use diffmoe::pipeline::InitImage;
use diffmoe::pixels::RgbImage;

/// The image that a run starts from, with its mask.
pub(super) fn init(
    image: Option<JsValue>,
    mask: Option<JsValue>,
    config: &Config,
) -> Result<Option<InitImage>, String> {
    let Some(value) = image else {
        return match mask {
            Some(_) => Err("mask needs initImage, the image to keep a part of".into()),
            None => Ok(None),
        };
    };
    let image = pixels("initImage", &value)?;
    let image = InitImage::of_pixels(&image, config).map_err(|error| error.to_string())?;
    Ok(Some(match mask {
        Some(mask) => image.with_mask_image(&pixels("mask", &mask)?, config),
        None => image,
    }))
}

/// An `ImageData`, an object with `rgba`, `width` and `height`, or the bytes of a PNG.
fn pixels(key: &str, value: &JsValue) -> Result<RgbImage, String> {
    if let Some(bytes) = bytes(value) {
        return RgbImage::read_png(&bytes).map_err(|error| format!("{key}: {error}"));
    }
    let get = |name: &str| Reflect::get(value, &name.into()).unwrap_or_default();
    let side = |name: &str| get(name).as_f64().filter(|n| n.fract() == 0.0 && *n >= 1.0);
    let rgba = bytes(&get("data")).or_else(|| bytes(&get("rgba")));
    let image = match (side("width"), side("height"), rgba) {
        (Some(width), Some(height), Some(rgba)) => {
            // Of several images, as `sample` returns them, the first.
            let len = (4.0 * width * height) as usize;
            rgba.get(..len).and_then(|rgba| RgbImage::from_rgba(width as u32, height as u32, rgba))
        }
        _ => None,
    };
    image.ok_or_else(|| {
        format!(
            "{key} must be an ImageData, an object {{ rgba, width, height }} with four bytes for each pixel, or the bytes \
             of a PNG"
        )
    })
}

fn bytes(value: &JsValue) -> Option<Vec<u8>> {
    if let Some(array) = value.dyn_ref::<Uint8Array>() {
        return Some(array.to_vec());
    }
    if let Some(array) = value.dyn_ref::<Uint8ClampedArray>() {
        return Some(array.to_vec());
    }
    value.dyn_ref::<ArrayBuffer>().map(|buffer| Uint8Array::new(buffer).to_vec())
}
