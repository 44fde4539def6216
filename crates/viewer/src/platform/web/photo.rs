//! Image files of any format that the browser reads, as pixels.

use js_sys::{Array, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, CanvasRenderingContext2d, HtmlCanvasElement, ImageBitmap};

use super::reason;
use diffmoe::pixels::{ImageFormat, RgbImage};

/// Longer side in pixels of what is read: models are smaller, and photos would take much memory.
const MOST: f64 = 2048.0;

/// Reads an image file: a PNG as everywhere, others by the browser.
///
/// # Errors
/// A sentence where it is no image or cannot be read.
pub async fn decode_image(bytes: &[u8]) -> Result<RgbImage, String> {
    let format = match ImageFormat::of(bytes) {
        None | Some(ImageFormat::Png) => {
            return RgbImage::read(bytes).map_err(|error| error.to_string());
        }
        Some(format) => format.name(),
    };
    by_browser(bytes).await.map_err(|error| {
        let reason = reason(&error);
        format!("this browser cannot read the {format} file; it is damaged, or convert it to PNG ({reason})")
    })
}

async fn by_browser(bytes: &[u8]) -> Result<RgbImage, JsValue> {
    let window = web_sys::window().ok_or("there is no page")?;
    let document = window.document().ok_or("there is no page")?;
    let blob = Blob::new_with_u8_array_sequence(&Array::of1(&Uint8Array::from(bytes)))?;
    let bitmap = JsFuture::from(window.create_image_bitmap_with_blob(&blob)?).await?;
    let bitmap: ImageBitmap = bitmap.unchecked_into();
    let (width, height) = (f64::from(bitmap.width()), f64::from(bitmap.height()));
    let scale = (MOST / width.max(height)).min(1.0);
    let [width, height] = [width, height].map(|side| (side * scale).round().max(1.0));
    let canvas: HtmlCanvasElement = document.create_element("canvas")?.unchecked_into();
    canvas.set_width(width as u32);
    canvas.set_height(height as u32);
    let context = canvas.get_context("2d")?.ok_or("there is no canvas")?;
    let context: CanvasRenderingContext2d = context.unchecked_into();
    context.draw_image_with_image_bitmap_and_dw_and_dh(&bitmap, 0.0, 0.0, width, height)?;
    bitmap.close();
    let rgba = context.get_image_data(0.0, 0.0, width, height)?.data();
    let image = RgbImage::from_rgba(width as u32, height as u32, &rgba);
    image.ok_or_else(|| "the image is empty".into())
}
