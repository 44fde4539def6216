//! Shaders as text with their constants.

/// A WGSL file with the shared files that are appended to it. The macro `shader!` of [`crate::kernels`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Shader {
    /// Stem of the WGSL file; also the label in captures and timings.
    pub name: &'static str,
    /// The whole WGSL text, without comments and indentation. Shared files come last, so that line numbers in errors stay true.
    pub source: &'static str,
    /// Values of `override` constants that depend on no call, such as the lanes of a workgroup. They have no default
    /// in WGSL: Rust alone states them.
    pub sizes: &'static [(&'static str, u32)],
    /// `const`s of the WGSL text that Rust states too, because they size arrays of functions, where WGSL allows no
    /// `override`. `tests/shaders.rs` compares them.
    pub consts: &'static [(&'static str, u32)],
}

/// A shader with the values of its `override` constants: what a driver compiles.
#[derive(Clone, Debug)]
pub struct Specialisation {
    /// The shader, with the constants that depend on no call.
    pub shader: Shader,
    /// Names and values of the others.
    pub constants: Vec<(&'static str, f64)>,
}

/// The text without comments and indentation, which a page would carry to every visitor; lines keep their numbers. The
/// bytes as far as there is room for them, and how many there are.
pub(crate) const fn compact<const ROOM: usize>(text: &str) -> ([u8; ROOM], usize) {
    let text = text.as_bytes();
    let (mut out, mut len, mut at) = ([0; ROOM], 0, 0);
    let mut is_indented = true;
    while at < text.len() {
        if text[at] == b'/' && at + 1 < text.len() && text[at + 1] == b'/' {
            while at < text.len() && text[at] != b'\n' {
                at += 1;
            }
            continue;
        }
        is_indented = is_indented && text[at] == b' ';
        if !is_indented {
            if len < ROOM {
                out[len] = text[at];
            }
            len += 1;
        }
        is_indented = is_indented || text[at] == b'\n';
        at += 1;
    }
    (out, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_indentation_go_and_lines_stay() {
        const TEXT: &str = "// Σ\nfn a() {\n    let b = c / 2;  // half\n\n    // ½\n    d();\n}";
        const LEN: usize = compact::<0>(TEXT).1;
        let bare = compact::<LEN>(TEXT).0;
        let bare = std::str::from_utf8(&bare).unwrap();
        assert_eq!(bare, "\nfn a() {\nlet b = c / 2;  \n\n\nd();\n}");
        assert_eq!(bare.lines().count(), TEXT.lines().count());
    }
}
