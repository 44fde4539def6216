//! Images as a table with a caption over each column and before each row.

use super::lettering::{LINE, fitted, width, write};
use super::{GAP, GridTooLarge, MOST_PIXELS, RgbImage};

/// Pixels around a caption.
const MARGIN: u32 = 6;
/// Widest caption of a row.
const MOST_WIDTH: u32 = 260;

/// Arranges images of one size as a table: `cells` row by row, `columns` and `rows` are captions. A table of one row may
/// have an empty caption, which takes no room.
///
/// # Errors
/// When it would have more than [`MOST_PIXELS`].
///
/// # Panics
/// When the images are not `columns` times `rows`, or not of one size.
pub fn table(
    cells: &[RgbImage],
    columns: &[String],
    rows: &[String],
) -> Result<RgbImage, GridTooLarge> {
    assert_eq!(cells.len(), columns.len() * rows.len(), "an image for each cell");
    let (wide, high) = cells.first().map_or((1, 1), |cell| (cell.width, cell.height));
    assert!(cells.iter().all(|cell| (cell.width, cell.height) == (wide, high)), "one size");
    let longest = rows.iter().map(|row| width(row)).max().unwrap_or(0).min(MOST_WIDTH);
    let left = if longest == 0 { GAP } else { longest + 2 * MARGIN };
    let top = LINE + 2 * MARGIN;
    let side =
        |n: usize, tile: u32, before: u32| u64::from(before) + n as u64 * u64::from(tile + GAP);
    let [across, down] = [side(columns.len(), wide, left), side(rows.len(), high, top)];
    let too_large =
        GridTooLarge { count: cells.len(), width: u64::from(wide), height: u64::from(high) };
    if across.saturating_mul(down) > MOST_PIXELS {
        return Err(too_large);
    }
    let white = vec![255; 3 * (across * down) as usize];
    let mut table = RgbImage::from_raw(across as u32, down as u32, white).ok_or(too_large)?;
    for (column, caption) in (0..).zip(columns) {
        let caption = fitted(caption, wide);
        let middle = (wide - width(&caption).min(wide)) / 2;
        write(&mut table, [left + column * (wide + GAP) + middle, MARGIN], &caption);
    }
    for (row, caption) in (0..).zip(rows) {
        let caption = fitted(caption, longest);
        let middle = high.saturating_sub(LINE) / 2;
        write(&mut table, [MARGIN, top + row * (high + GAP) + middle], &caption);
    }
    for (at, cell) in (0..).zip(cells) {
        let (row, column) = (at / columns.len() as u32, at % columns.len() as u32);
        let (x, y) = (left + column * (wide + GAP), top + row * (high + GAP));
        for line in 0..high {
            let from = (3 * line * wide) as usize;
            let to = 3 * ((y + line) as usize * table.width as usize + x as usize);
            let pixels = &cell.pixels[from..from + 3 * wide as usize];
            table.pixels[to..to + pixels.len()].copy_from_slice(pixels);
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(colour: [u8; 3]) -> RgbImage {
        RgbImage::from_raw(40, 30, colour.repeat(1200)).unwrap()
    }

    fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
        texts.map(str::to_owned).to_vec()
    }

    #[test]
    fn cells_and_captions_have_their_places() {
        let cells = [[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 9, 9]].map(cell);
        let table = table(&cells, &texts(["1", "2"]), &texts(["a", "bc"])).unwrap();
        let (left, top) = (22 + 12, 14 + 12);
        assert_eq!((table.width(), table.height()), (left + 2 * 44, top + 2 * 34));
        assert_eq!(table.pixel(left, top), [9, 0, 0]);
        assert_eq!(table.pixel(left + 44 + 39, top + 29), [0, 9, 0]);
        assert_eq!(table.pixel(left + 5, top + 34), [0, 0, 9]);
        assert_eq!(table.pixel(left + 44, top + 34), [9, 9, 9]);
        assert_eq!(table.pixel(left + 40, top), [255; 3], "the gap");
        let is_written = |x: std::ops::Range<u32>, y: std::ops::Range<u32>| {
            x.flat_map(|x| y.clone().map(move |y| (x, y))).any(|(x, y)| table.pixel(x, y) == [0; 3])
        };
        assert!(is_written(left..left + 40, 0..top) && is_written(0..left, top..top + 30));
        assert!(!is_written(0..left, 0..top), "the corner is empty");
    }

    #[test]
    fn one_row_needs_no_caption() {
        let table = table(&[cell([1; 3])], &texts(["x"]), &texts([""])).unwrap();
        assert_eq!((table.width(), table.height()), (4 + 44, 26 + 34));
    }
}
