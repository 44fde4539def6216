//! What makes the page an app that can be installed: its icons, its manifest, and the service worker that keeps it.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use sha2::{Digest, Sha256};

/// Icons: file name, pixels along a side, and whether the system cuts its own shape out of it.
pub(super) const ICONS: [(&str, usize, bool); 4] = [
    ("icon-180.png", 180, true),
    ("icon-192.png", 192, false),
    ("icon-512.png", 512, false),
    ("icon-maskable-512.png", 512, true),
];

/// The colour of the sign.
const BLUE: [f64; 3] = [47.0, 80.0, 201.0];

/// The sign of the page as a PNG file: four patches on a blue square, two of them pale, as in `index.html`.
pub(super) fn icon(side: usize, is_whole: bool) -> Result<Vec<u8>, String> {
    let mut pixels = Vec::with_capacity(side * (4 * side + 1));
    for y in 0..side {
        pixels.push(0);
        for x in 0..side {
            pixels.extend(pixel(x, y, side, is_whole));
        }
    }
    png(side, &pixels)
}

/// A pixel, from sixteen points inside it.
fn pixel(x: usize, y: usize, side: usize, is_whole: bool) -> [u8; 4] {
    const POINTS: usize = 4;
    let mut sum = [0.0; 4];
    for point in 0..POINTS * POINTS {
        let place = |pixel: usize, point: usize| {
            16.0 * (pixel as f64 + (point as f64 + 0.5) / POINTS as f64) / side as f64
        };
        let colour = sign(place(x, point % POINTS), place(y, point / POINTS), is_whole);
        for (sum, value) in sum.iter_mut().zip(colour) {
            *sum += value / (POINTS * POINTS) as f64;
        }
    }
    let [red, green, blue, alpha] = sum;
    let straight = |value: f64| (value / alpha.max(1e-9)).round() as u8;
    [straight(red), straight(green), straight(blue), (255.0 * alpha).round() as u8]
}

/// The sign at a point of a square of 16 by 16: red, green and blue times the opacity, and the opacity.
fn sign(x: f64, y: f64, is_whole: bool) -> [f64; 4] {
    // Systems that cut out a shape of their own leave the middle four fifths.
    let inner = |v: f64| if is_whole { 8.0 + (v - 8.0) * 1.25 } else { v };
    if !is_whole && !in_box(x, y, [0.0, 0.0], 16.0, 4.0) {
        return [0.0; 4];
    }
    let (x, y) = (inner(x), inner(y));
    let patches = [([3.0, 3.0], 1.0), ([9.0, 3.0], 0.45), ([3.0, 9.0], 0.45), ([9.0, 9.0], 1.0)];
    let white = patches.iter().find(|(corner, _)| in_box(x, y, *corner, 4.0, 1.0));
    let white = white.map_or(0.0, |patch| patch.1);
    let mix = |blue: f64| blue + (255.0 - blue) * white;
    [mix(BLUE[0]), mix(BLUE[1]), mix(BLUE[2]), 1.0]
}

/// Whether a point is in a square with round corners.
fn in_box(x: f64, y: f64, corner: [f64; 2], side: f64, radius: f64) -> bool {
    let beyond = |v: f64, start: f64| {
        let inner = (start + radius, start + side - radius);
        (inner.0 - v).max(v - inner.1).max(0.0)
    };
    beyond(x, corner[0]).hypot(beyond(y, corner[1])) <= radius
}

/// A square PNG file of red, green, blue and opacity, with a filter byte before each row.
fn png(side: usize, rows: &[u8]) -> Result<Vec<u8>, String> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::best());
    packer.write_all(rows).map_err(|error| error.to_string())?;
    let packed = packer.finish().map_err(|error| error.to_string())?;
    let size = (side as u32).to_be_bytes();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], bytes: &[u8]| {
        let mut sum = Crc::new();
        sum.update(kind);
        sum.update(bytes);
        file.extend((bytes.len() as u32).to_be_bytes());
        file.extend(kind);
        file.extend(bytes);
        file.extend(sum.sum().to_be_bytes());
    };
    chunk(b"IHDR", &[&size[..], &size, &[8, 6, 0, 0, 0]].concat());
    chunk(b"IDAT", &packed);
    chunk(b"IEND", &[]);
    Ok(file)
}

/// The manifest, which browsers read before they offer to install the page.
pub(super) fn manifest() -> Result<String, String> {
    let icons = ICONS.iter().skip(1).map(|(name, side, is_whole)| {
        serde_json::json!({
            "src": name,
            "sizes": format!("{side}x{side}"),
            "type": "image/png",
            "purpose": if *is_whole { "maskable" } else { "any" },
        })
    });
    let manifest = serde_json::json!({
        "name": "DiffMoE: images from dynamic experts",
        "short_name": "DiffMoE",
        "description": "A diffusion transformer with dynamic experts that draws images on your own device.",
        "id": "./",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#0f1116",
        "theme_color": "#0f1116",
        "categories": ["graphics", "education"],
        "icons": icons.collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&manifest).map_err(|error| error.to_string())
}

/// The links of the page's head to these files, and what other sites show where they link to it. `address` is where the
/// page will be, as far as that is known: some sites need the whole address of a picture.
pub(super) fn links(address: Option<&str>) -> String {
    let base = address.map(|address| format!("{}/", address.trim_end_matches('/')));
    let base = base.unwrap_or_default().replace('&', "&amp;").replace('"', "&quot;");
    let page = match base.as_str() {
        "" => String::new(),
        base => format!("<meta property=\"og:url\" content=\"{base}\">\n"),
    };
    format!(
        "<link rel=\"manifest\" href=\"manifest.webmanifest\">\n\
         <link rel=\"apple-touch-icon\" href=\"icon-180.png\">\n\
         <meta property=\"og:type\" content=\"website\">\n\
         <meta property=\"og:title\" content=\"DiffMoE: images from dynamic experts\">\n\
         <meta property=\"og:description\" content=\"A diffusion transformer draws images in your browser, and shows \
         which expert works on which patch.\">\n\
         <meta property=\"og:image\" content=\"{base}card.png\">\n\
         <meta property=\"og:image:width\" content=\"1200\">\n\
         <meta property=\"og:image:height\" content=\"630\">\n\
         <meta property=\"og:image:alt\" content=\"The app: an image from noise to result, and the compute of each \
         expert along the way\">\n\
         {page}<meta name=\"twitter:card\" content=\"summary_large_image\">\n"
    )
}

/// The service worker for these files of the page, each a name and its content; the first is the page itself.
pub(super) fn service_worker(source: &str, files: &[(&str, Vec<u8>)]) -> Result<String, String> {
    let mut sum = Sha256::new();
    for (name, bytes) in files {
        sum.update((name.len() as u64).to_le_bytes());
        sum.update(name);
        sum.update((bytes.len() as u64).to_le_bytes());
        sum.update(bytes);
    }
    let version: String = sum.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let names = serde_json::to_string(&names).map_err(|error| error.to_string())?;
    let lines = [
        ("const VERSION = \"unbuilt\";", format!("const VERSION = \"{version}\";")),
        ("const FILES = [];", format!("const FILES = {names};")),
    ];
    let mut text = source.to_owned();
    for (line, filled) in lines {
        if source.matches(line).count() != 1 {
            return Err(format!("web/sw.js needs the line `{line}` once"));
        }
        text = text.replace(line, &filled);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_has_round_corners_unless_the_system_cuts_them() {
        assert_eq!(pixel(0, 0, 64, false)[3], 0);
        assert_eq!(pixel(0, 0, 64, true), [47, 80, 201, 255]);
        assert_eq!(pixel(20, 20, 64, false), [255; 4], "the first patch");
        let [red, .., alpha] = pixel(44, 20, 64, false);
        assert!(red > 100 && red < 200 && alpha == 255, "the second is pale: {red}");
        let file = icon(16, false).unwrap();
        assert!(file.starts_with(b"\x89PNG") && file.ends_with(b"IEND\xae\x42\x60\x82"));
    }

    #[test]
    fn a_changed_file_is_a_new_version_of_the_service_worker() {
        let source =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../web/sw.js")).unwrap();
        let of = |bytes: &[u8]| service_worker(&source, &[("./", bytes.to_vec())]).unwrap();
        let first = of(b"1");
        assert!(first.contains("const FILES = [\"./\"];") && !first.contains("unbuilt"));
        assert_ne!(first, of(b"2"));
        assert_eq!(first, of(b"1"));
        assert!(service_worker("", &[]).is_err());
    }

    #[test]
    fn other_sites_get_the_whole_address_of_the_picture_where_it_is_known() {
        assert!(links(None).contains("content=\"card.png\""));
        let links = links(Some("https://example.org/a/"));
        assert!(links.contains("content=\"https://example.org/a/card.png\""), "{links}");
    }
}
