//! A small writer of SVG files: lines, areas, boxes and words.

use std::fmt::Write as _;

use egui::{Color32, Pos2, Rect};

use super::pattern::Pattern;
use crate::palette;

/// An SVG file that grows.
pub(super) struct Svg {
    view: Rect,
    body: String,
    /// Patterns that are defined.
    patterns: Vec<(Ground, Color32)>,
}

/// A pattern over a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// Of experts beyond eight.
    Of(Pattern),
    /// Nobody.
    Hatch,
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
        let mut svg = Self::of_view(Rect::from_min_size(Pos2::ZERO, size));
        svg.area(Rect::from_min_size(Pos2::ZERO, size), Color32::WHITE);
        svg
    }

    /// An empty page that shows a part of the plane.
    pub(super) fn of_view(view: Rect) -> Self {
        Self { view, body: String::new(), patterns: Vec::new() }
    }

    /// An element, as it is written.
    pub(super) fn element(&mut self, text: &str) {
        self.body.push_str(text);
        self.body.push('\n');
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
        let ink = palette::text_on(palette::expert(expert)).gamma_multiply(0.6);
        let id = self.ground(Ground::Of(pattern), ink);
        let places = places(points);
        let _ = writeln!(self.body, r#"<polygon points="{places}" fill="url(#p{id})"/>"#);
    }

    /// The number of a pattern, six points wide, in a colour; `url(#p…)` fills with it.
    pub(super) fn ground(&mut self, ground: Ground, ink: Color32) -> usize {
        if let Some(place) = self.patterns.iter().position(|known| *known == (ground, ink)) {
            return place;
        }
        let id = self.patterns.len();
        self.patterns.push((ground, ink));
        let element = match ground {
            Ground::Of(Pattern::Dots) => r#"circle cx="3" cy="3" r="1.7""#,
            Ground::Of(Pattern::Columns) => r#"rect x="2" width="2" height="6""#,
            Ground::Of(Pattern::Rows) => r#"rect y="2" width="6" height="2""#,
            Ground::Of(Pattern::Grid) => {
                r#"path d="M2.4 0h1.2v2.4h2.4v1.2h-2.4v2.4h-1.2v-2.4h-2.4v-1.2h2.4z""#
            }
            Ground::Hatch => r#"path d="M-1 1L1 -1M-1 7L7 -1M5 7L7 5""#,
        };
        let paint = if ground == Ground::Hatch {
            format!(r#"fill="none" {}"#, painted("stroke", ink))
        } else {
            painted("fill", ink)
        };
        let _ = writeln!(
            self.body,
            r#"<pattern id="p{id}" patternUnits="userSpaceOnUse" width="6" height="6"><{element} {paint}/></pattern>"#
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
        let (egui::Vec2 { x, y }, from) = (self.view.size(), self.view.min);
        let (left, top) = (from.x, from.y);
        let head = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{x}" height="{y}" viewBox="{left} {top} {x} {y}" font-family="sans-serif" font-size="12" role="img">"#
        );
        format!("{head}\n<title>{}</title>\n{}</svg>\n", escaped(title), self.body).into_bytes()
    }
}

/// A colour with its opacity as `fill` or `stroke`.
pub(super) fn painted(what: &str, colour: Color32) -> String {
    let [r, g, b, alpha] = colour.to_srgba_unmultiplied();
    let hex = hex(Color32::from_rgb(r, g, b));
    if alpha == u8::MAX {
        return format!(r#"{what}="{hex}""#);
    }
    format!(r#"{what}="{hex}" {what}-opacity="{:.3}""#, f32::from(alpha) / 255.0)
}

pub(super) fn places(points: &[Pos2]) -> String {
    let places: Vec<_> = points.iter().map(|p| format!("{:.2},{:.2}", p.x, p.y)).collect();
    places.join(" ")
}

fn hex(colour: Color32) -> String {
    format!("#{:02x}{:02x}{:02x}", colour.r(), colour.g(), colour.b())
}

/// Text that may stand anywhere in a file of XML.
pub(super) fn escaped(text: &str) -> String {
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
