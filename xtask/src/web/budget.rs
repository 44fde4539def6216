//! Download sizes of the page and their budgets.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::page::FIRST_ON_GPU;

/// Most bytes of the WebAssembly as servers send it, packed.
const WASM: u64 = 2_300_000;
/// Most bytes in all until the first image.
const FIRST_IMAGE: u64 = 20_000_000;
/// Prints the sizes of a finished page.
///
/// # Errors
/// When it is too large.
pub(super) fn check(folder: &Path) -> Result<(), String> {
    println!("\n{:<28} {:>12} {:>12}", "dist/", "bytes", "gzip");
    // The larger one of the two that draw first images.
    let model = &format!("models/{FIRST_ON_GPU}.safetensors");
    let mut first_image = 0;
    let mut wasm = 0;
    for name in ["index.html", "start.js", "diffmoe.js", "diffmoe_bg.wasm", model] {
        let bytes = std::fs::read(folder.join(name))
            .map_err(|e| format!("cannot read dist/{name}: {e}"))?;
        let packed = packed_size(&bytes)?;
        println!("{name:<28} {:>12} {packed:>12}", bytes.len());
        // Weights do not shrink, and no server tries.
        first_image += if name == model { bytes.len() as u64 } else { packed };
        if name.ends_with(".wasm") {
            wasm = packed;
        }
    }
    println!("{:<28} {:>12} {first_image:>12}", "until the first image", "");
    within("the WebAssembly", wasm, WASM)?;
    within("everything until the first image", first_image, FIRST_IMAGE)
}

fn within(what: &str, bytes: u64, most: u64) -> Result<(), String> {
    if bytes <= most {
        return Ok(());
    }
    Err(format!(
        "{what} has {bytes} bytes, more than the budget of {most}; find the cause, or change \
            the budget"
    ))
}

fn packed_size(bytes: &[u8]) -> Result<u64, String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).map_err(|e| e.to_string())?;
    Ok(encoder.finish().map_err(|e| e.to_string())?.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_too_large_is_refused() {
        assert_eq!(within("it", 10, 10), Ok(()));
        assert!(within("it", 11, 10).unwrap_err().contains("11 bytes, more than the budget of 10"));
        assert!(packed_size(&[7; 10_000]).unwrap() < 200);
    }
}
