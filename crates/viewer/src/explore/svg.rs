//! A small writer of SVG files: lines, areas, boxes and words.

use std::fmt::Write as _;

use egui::{Color32, Pos2, Rect};

use super::pattern::Pattern;
use crate::palette;

/// An SVG file that grows.
pub(super) struct Svg {
    size: egui::Vec2,
    body: String,
    /// Patterns that are defined.
    patterns: Vec<(Pattern, Color32)>,
}

/// Where words stand at their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// A white page.
    pub(super) fn new(size: egui::Vec2) -> Self {
        let mut svg = Self { size, body: String::new(), patterns: Vec::new() };
        svg.area(Rect::from_min_size(Pos2::ZERO, size), Color32::WHITE);
        svg
    }

    /// A filled rectangle.
    pub(super) fn area(&mut self, rect: Rect, fill: Color32) {
        let (min, size) = (rect.min, rect.size());
        let _ = writeln!(
            self.body,
            r#"<rect x="{:.2}" y="{:.2}" width="{:.2}" height="{:.2}" fill="{}"/>"#,
            min.x,
            min.y,
            size.x,
            size.y,
            hex(fill)
        );
    }

    /// A line through points, dashed where `dash` is not 0.
    pub(super) fn line(&mut self, points: &[Pos2], width: f32, colour: Color32, dash: f32) {
        let dashes =
            if dash > 0.0 { format!(r#" stroke-dasharray="{dash}""#) } else { String::new() };
        let _ = writeln!(
            self.body,
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="{width}"{dashes}/>"#,
            places(points),
            hex(colour)
        );
    }

    /// A filled shape.
    pub(super) fn shape(&mut self, points: &[Pos2], fill: Color32) {
        let _ =
            writeln!(self.body, r#"<polygon points="{}" fill="{}"/>"#, places(points), hex(fill));
    }

    /// The pattern of an expert over a shape; nothing for the first eight.
    pub(super) fn pattern(&mut self, points: &[Pos2], expert: usize) {
        let Some(pattern) = Pattern::of(expert) else { return };
        let ink = palette::text_on(palette::expert(expert));
        let id = match self.patterns.iter().position(|known| *known == (pattern, ink)) {
            Some(place) => place,
            None => self.define(pattern, ink),
        };
        let places = places(points);
        let _ = writeln!(self.body, r#"<polygon points="{places}" fill="url(#p{id})"/>"#);
    }

    /// Defines a pattern of six points; returns its number.
    fn define(&mut self, pattern: Pattern, ink: Color32) -> usize {
        let id = self.patterns.len();
        self.patterns.push((pattern, ink));
        let element = match pattern {
            Pattern::Dots => r#"circle cx="3" cy="3" r="1.7""#,
            Pattern::Columns => r#"rect x="2" width="2" height="6""#,
            Pattern::Rows => r#"rect y="2" width="6" height="2""#,
        };
        let _ = writeln!(
            self.body,
            r#"<pattern id="p{id}" patternUnits="userSpaceOnUse" width="6" height="6"><{element} fill="{}" fill-opacity="0.6"/></pattern>"#,
            hex(ink)
        );
        id
    }

    /// Words, whatever is in them.
    pub(super) fn text(&mut self, at: Pos2, anchor: Anchor, words: &str, colour: Color32) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            r#"<text x="{:.2}" y="{:.2}" text-anchor="{anchor}" dominant-baseline="middle" fill="{}">{}</text>"#,
            at.x,
            at.y,
            hex(colour),
            escaped(words)
        );
    }

    /// The file; its title is read out by screen readers.
    pub(super) fn finish(self, title: &str) -> Vec<u8> {
        let egui::Vec2 { x, y } = self.size;
        let head = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{x}" height="{y}" viewBox="0 0 {x} {y}" font-family="sans-serif" font-size="12" role="img">"#
        );
        format!("{head}\n<title>{}</title>\n{}</svg>\n", escaped(title), self.body).into_bytes()
    }
}

fn places(points: &[Pos2]) -> String {
    let places: Vec<_> = points.iter().map(|p| format!("{:.2},{:.2}", p.x, p.y)).collect();
    places.join(" ")
}

fn hex(colour: Color32) -> String {
    format!("#{:02x}{:02x}{:02x}", colour.r(), colour.g(), colour.b())
}

/// Text that may stand anywhere in a file of XML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in XML at all.
            c if c.is_control() && !matches!(c, '\t' | '\n') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use egui::{pos2, vec2};

    use super::*;

    #[test]
    fn a_file_has_what_was_drawn_and_no_word_breaks_it() {
        let mut svg = Svg::new(vec2(40.0, 20.0));
        svg.line(&[pos2(0.0, 1.0), pos2(2.0, 3.5)], 1.5, Color32::RED, 4.0);
        svg.shape(&[pos2(0.0, 0.0), pos2(1.0, 0.0), pos2(1.0, 1.0)], Color32::from_rgb(1, 2, 255));
        svg.text(pos2(5.0, 6.0), Anchor::End, "</text><script>&\"'\u{1}", Color32::BLACK);
        let file = String::from_utf8(svg.finish("C & <noise>")).unwrap();
        for part in [
            r#"viewBox="0 0 40 20""#,
            r##"<polyline points="0.00,1.00 2.00,3.50" fill="none" stroke="#ff0000" stroke-width="1.5" stroke-dasharray="4"/>"##,
            r##"<polygon points="0.00,0.00 1.00,0.00 1.00,1.00" fill="#0102ff"/>"##,
            "&lt;/text&gt;&lt;script&gt;&amp;&quot;&#39;\u{fffd}</text>",
            "<title>C &amp; &lt;noise&gt;</title>",
        ] {
            assert!(file.contains(part), "{part} is missing in {file}");
        }
        assert_eq!(file.matches("<text").count(), 1);
        assert!(file.starts_with("<svg ") && file.ends_with("</svg>\n"));
    }
}
