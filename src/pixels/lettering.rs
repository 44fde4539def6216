//! Captions in images: letters of five by seven pixels, for programs without a font.

use super::RgbImage;

/// Pixels of a letter, without the gap after it.
const LETTER: [u32; 2] = [5, 7];
/// Pixels from one letter to the next.
const PITCH: u32 = 6;
/// How much letters are enlarged.
const SCALE: u32 = 2;

/// Height of a line.
pub(super) const LINE: u32 = LETTER[1] * SCALE;

/// From `!` to `~`: the seven rows of each letter, five bits a row, the left pixel first.
#[rustfmt::skip]
const LETTERS: [[u8; 7]; 94] = [
    [4, 4, 4, 4, 4, 0, 4], [10, 10, 0, 0, 0, 0, 0], [10, 31, 10, 10, 10, 31, 10], // ! " #
    [4, 15, 20, 14, 5, 30, 4], [25, 25, 2, 4, 8, 19, 19], [12, 18, 20, 8, 21, 18, 13], // $ % &
    [4, 4, 0, 0, 0, 0, 0], [2, 4, 8, 8, 8, 4, 2], [8, 4, 2, 2, 2, 4, 8], // ' ( )
    [0, 21, 14, 31, 14, 21, 0], [0, 4, 4, 31, 4, 4, 0], [0, 0, 0, 0, 4, 4, 8], // * + ,
    [0, 0, 0, 31, 0, 0, 0], [0, 0, 0, 0, 0, 12, 12], [1, 1, 2, 4, 8, 16, 16], // - . /
    [14, 17, 17, 17, 17, 17, 14], [4, 12, 20, 4, 4, 4, 31], [14, 17, 1, 6, 8, 16, 31], // 0 1 2
    [30, 1, 1, 14, 1, 1, 30], [3, 5, 9, 17, 31, 1, 1], [31, 16, 16, 30, 1, 1, 30], // 3 4 5
    [14, 16, 16, 30, 17, 17, 14], [31, 1, 2, 2, 4, 4, 4], [14, 17, 17, 14, 17, 17, 14], // 6 7 8
    [14, 17, 17, 15, 1, 1, 14], [0, 12, 12, 0, 12, 12, 0], [0, 4, 4, 0, 4, 4, 8], // 9 : ;
    [1, 2, 4, 8, 4, 2, 1], [0, 0, 31, 0, 31, 0, 0], [16, 8, 4, 2, 4, 8, 16], // < = >
    [14, 17, 1, 2, 4, 0, 4], [14, 17, 23, 21, 23, 16, 14], [14, 17, 17, 31, 17, 17, 17], // ? @ A
    [30, 17, 17, 30, 17, 17, 30], [14, 17, 16, 16, 16, 17, 14], [30, 17, 17, 17, 17, 17, 30], // B C D
    [31, 16, 16, 30, 16, 16, 31], [31, 16, 16, 30, 16, 16, 16], [14, 17, 16, 19, 17, 17, 14], // E F G
    [17, 17, 17, 31, 17, 17, 17], [14, 4, 4, 4, 4, 4, 14], [7, 2, 2, 2, 2, 18, 12], // H I J
    [17, 18, 20, 24, 20, 18, 17], [16, 16, 16, 16, 16, 16, 31], [17, 27, 21, 21, 17, 17, 17], // K L M
    [17, 25, 21, 21, 19, 17, 17], [14, 17, 17, 17, 17, 17, 14], [30, 17, 17, 30, 16, 16, 16], // N O P
    [14, 17, 17, 17, 21, 18, 13], [30, 17, 17, 30, 20, 18, 17], [15, 16, 16, 14, 1, 1, 30], // Q R S
    [31, 4, 4, 4, 4, 4, 4], [17, 17, 17, 17, 17, 17, 14], [17, 17, 17, 17, 10, 10, 4], // T U V
    [17, 17, 17, 21, 21, 27, 17], [17, 10, 10, 4, 10, 10, 17], [17, 17, 10, 10, 4, 4, 4], // W X Y
    [31, 1, 2, 4, 8, 16, 31], [14, 8, 8, 8, 8, 8, 14], [16, 16, 8, 4, 2, 1, 1], // Z [ \
    [14, 2, 2, 2, 2, 2, 14], [4, 10, 17, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 31], // ] ^ _
    [8, 4, 0, 0, 0, 0, 0], [0, 0, 14, 1, 15, 17, 15], [16, 16, 30, 17, 17, 17, 30], // ` a b
    [0, 0, 14, 17, 16, 17, 14], [1, 1, 15, 17, 17, 17, 15], [0, 0, 14, 17, 31, 16, 14], // c d e
    [6, 8, 8, 28, 8, 8, 8], [0, 15, 17, 17, 15, 1, 14], [16, 16, 30, 17, 17, 17, 17], // f g h
    [4, 0, 12, 4, 4, 4, 14], [2, 0, 6, 2, 2, 18, 12], [16, 16, 18, 20, 24, 20, 18], // i j k
    [12, 4, 4, 4, 4, 4, 14], [0, 0, 26, 21, 21, 21, 21], [0, 0, 30, 17, 17, 17, 17], // l m n
    [0, 0, 14, 17, 17, 17, 14], [0, 30, 17, 17, 30, 16, 16], [0, 15, 17, 17, 15, 1, 1], // o p q
    [0, 0, 22, 25, 16, 16, 16], [0, 0, 15, 16, 14, 1, 30], [8, 8, 28, 8, 8, 8, 6], // r s t
    [0, 0, 17, 17, 17, 17, 15], [0, 0, 17, 17, 17, 10, 4], [0, 0, 17, 21, 21, 21, 10], // u v w
    [0, 0, 17, 10, 4, 10, 17], [0, 17, 17, 17, 15, 1, 14], [0, 0, 31, 2, 4, 8, 31], // x y z
    [2, 4, 4, 8, 4, 4, 2], [4, 4, 4, 4, 4, 4, 4], [8, 4, 4, 2, 4, 4, 8], // { | }
    [0, 0, 8, 21, 2, 0, 0], // ~
];

/// Width of a text in one line.
pub(super) fn width(text: &str) -> u32 {
    (text.chars().count() as u32 * PITCH).saturating_sub(PITCH - LETTER[0]) * SCALE
}

/// As much of a text as fits, with two dots where it is cut.
pub(super) fn fitted(text: &str, most: u32) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let letters = (most / SCALE + PITCH - LETTER[0]) / PITCH;
    let kept = text.chars().take((letters as usize).saturating_sub(2)).collect::<String>();
    if letters < 3 { String::new() } else { kept + ".." }
}

/// Writes black letters with their upper left corner at a place. What these letters do not have becomes a `?`.
pub(super) fn write(image: &mut RgbImage, [left, top]: [u32; 2], text: &str) {
    for (place, letter) in (0..).zip(text.chars().filter(|c| !c.is_control())) {
        if letter == ' ' {
            continue;
        }
        let known = |c: char| LETTERS.get((c as usize).checked_sub(usize::from(b'!'))?);
        let Some(rows) = known(letter).or_else(|| known('?')) else { continue };
        for (y, x) in (0..LINE).flat_map(|y| (0..LETTER[0] * SCALE).map(move |x| (y, x))) {
            let is_set = rows[(y / SCALE) as usize] >> (LETTER[0] - 1 - x / SCALE) & 1 == 1;
            let at = [left + place * PITCH * SCALE + x, top + y];
            if is_set && at[0] < image.width && at[1] < image.height {
                image.put(at[0], at[1], [0; 3]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_different_and_none_is_empty() {
        for (i, a) in LETTERS.iter().enumerate() {
            assert!(a.iter().any(|&row| row > 0) && a.iter().all(|&row| row < 32), "{i}");
            // Letters that look alike in print, too.
            let alike =
                |i: usize| ["O0", "I1"].iter().any(|pair| pair.contains((b'!' + i as u8) as char));
            for (j, b) in LETTERS[..i].iter().enumerate() {
                assert!(a != b || (alike(i) && alike(j)), "{i} {j}");
            }
        }
    }

    #[test]
    fn texts_are_written_where_they_belong() {
        let mut image = RgbImage::from_raw(40, 20, vec![255; 2400]).unwrap();
        write(&mut image, [3, 2], "-é");
        // The dash: five pixels of two, in the fourth of seven rows.
        for (y, x) in (0..20).flat_map(|y| (0..12).map(move |x| (y, x))) {
            let is_dash = (3..13).contains(&x) && (8..10).contains(&y);
            assert_eq!(image.pixel(x, y), if is_dash { [0; 3] } else { [255; 3] }, "{x} {y}");
        }
        assert_eq!(image.pixel(3 + 12 + 2, 2), [0; 3], "the top of a question mark");
        // Beyond the edge nothing is written.
        write(&mut image, [35, 15], "MMM");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(width("abc"), 34);
        assert_eq!(fitted("abc", 34), "abc");
        assert_eq!(fitted("abcdef", 60), "abc..");
        assert_eq!(fitted("abcdef", 12), "");
    }
}
