//! A card as a vector file: every line, area and word of it as it is on screen. Pictures, which are textures, become PNG
//! files inside.

use std::fmt::Write as _;

use egui::epaint::{ClippedShape, ColorMode, Mesh, PathShape, RectShape, TextShape};
use egui::{Color32, Pos2, Rect, Shape, Stroke, StrokeKind, TextureId};

use super::svg::{Ground, Svg, escaped, painted, places};

/// What a card's textures are.
pub(super) struct Textures<'a> {
    /// Hatching and the patterns of experts.
    pub(super) grounds: Vec<(TextureId, Ground)>,
    /// The pixels of a part of the screen, as PNG in base64.
    pub(super) pixels: &'a dyn Fn(Rect) -> Option<String>,
}

/// Writes what lies inside an area; the title is read out by screen readers.
pub(super) fn svg(
    shapes: &[ClippedShape],
    area: Rect,
    textures: &Textures<'_>,
    title: &str,
) -> Vec<u8> {
    let mut drawing = Drawing { svg: Svg::of_view(area), textures, area };
    let mut clips: Vec<Rect> = Vec::new();
    for ClippedShape { clip_rect, shape, .. } in shapes {
        let clip = clip_rect.intersect(area);
        let bounds = shape.visual_bounding_rect();
        if !bounds.intersects(clip) {
            continue;
        }
        if clip.contains_rect(bounds) {
            drawing.add(shape);
            continue;
        }
        let id = clips.iter().position(|known| *known == clip).unwrap_or_else(|| {
            let (min, size) = (clip.min, clip.size());
            drawing.svg.element(&format!(
                r#"<clipPath id="c{}"><rect x="{:.2}" y="{:.2}" width="{:.2}" height="{:.2}"/></clipPath>"#,
                clips.len(), min.x, min.y, size.x, size.y
            ));
            clips.push(clip);
            clips.len() - 1
        });
        drawing.svg.element(&format!(r#"<g clip-path="url(#c{id})">"#));
        drawing.add(shape);
        drawing.svg.element("</g>");
    }
    drawing.svg.finish(title)
}

struct Drawing<'a> {
    svg: Svg,
    textures: &'a Textures<'a>,
    area: Rect,
}

impl Drawing<'_> {
    fn add(&mut self, shape: &Shape) {
        match shape {
            Shape::Vec(shapes) => shapes.iter().for_each(|shape| self.add(shape)),
            Shape::Circle(circle) => self.svg.element(&format!(
                r#"<circle cx="{:.2}" cy="{:.2}" r="{:.2}" {}/>"#,
                circle.center.x,
                circle.center.y,
                circle.radius,
                filled(circle.fill, circle.stroke)
            )),
            Shape::LineSegment { points, stroke } => self.line(points, *stroke),
            Shape::Path(path) => self.path(path),
            Shape::Rect(rect) => self.rect(rect),
            Shape::Text(text) => self.text(text),
            Shape::Mesh(mesh) => self.mesh(mesh),
            // Nothing of Explore is painted with these.
            Shape::Noop
            | Shape::Ellipse(_)
            | Shape::Band(_)
            | Shape::QuadraticBezier(_)
            | Shape::CubicBezier(_)
            | Shape::Callback(_) => {}
        }
    }

    fn line(&mut self, points: &[Pos2], stroke: Stroke) {
        if !stroke.is_empty() {
            let paint = filled(Color32::TRANSPARENT, stroke);
            self.svg.element(&format!(r#"<polyline points="{}" {paint}/>"#, places(points)));
        }
    }

    fn path(&mut self, path: &PathShape) {
        let colour = match &path.stroke.color {
            ColorMode::Solid(colour) => *colour,
            ColorMode::UV(_) => Color32::GRAY,
        };
        let kind = if path.closed { "polygon" } else { "polyline" };
        let paint = filled(path.fill, Stroke::new(path.stroke.width, colour));
        self.svg.element(&format!(r#"<{kind} points="{}" {paint}/>"#, places(&path.points)));
    }

    fn rect(&mut self, shape: &RectShape) {
        if shape.brush.is_some() {
            return self.pixels(shape.rect);
        }
        let inside = match shape.stroke_kind {
            StrokeKind::Inside => 0.5,
            StrokeKind::Middle => 0.0,
            StrokeKind::Outside => -0.5,
        };
        let inset = if shape.stroke.is_empty() { 0.0 } else { inside * shape.stroke.width };
        let rect = shape.rect.shrink(inset);
        let corner = (f32::from(shape.corner_radius.nw) - inset).max(0.0);
        let radius = if corner > 0.0 { format!(r#" rx="{corner:.1}""#) } else { String::new() };
        self.svg.element(&format!(
            r#"<rect x="{:.2}" y="{:.2}" width="{:.2}" height="{:.2}"{radius} {}/>"#,
            rect.left(),
            rect.top(),
            rect.width().max(0.0),
            rect.height().max(0.0),
            filled(shape.fill, shape.stroke)
        ));
    }

    /// Each row where it stands, as wide as it is on screen whatever the font.
    fn text(&mut self, shape: &TextShape) {
        let Some(section) = shape.galley.job.sections.first() else { return };
        let own = section.format.color;
        let own = if own == Color32::PLACEHOLDER { shape.fallback_color } else { own };
        let colour = shape.override_text_color.unwrap_or(own).gamma_multiply(shape.opacity_factor);
        let size = section.format.font_id.size;
        for row in &shape.galley.rows {
            let (Some(first), Some(last)) = (row.glyphs.first(), row.glyphs.last()) else {
                continue;
            };
            let at = shape.pos + row.pos.to_vec2() + first.pos.to_vec2();
            let width = last.pos.x + last.advance_width - first.pos.x;
            let words: String = row.glyphs.iter().map(|glyph| glyph.chr).collect();
            if words.trim().is_empty() {
                continue;
            }
            self.svg.element(&format!(
                r#"<text x="{:.2}" y="{:.2}" font-size="{size}" textLength="{width:.1}" lengthAdjust="spacingAndGlyphs" {}>{}</text>"#,
                at.x,
                at.y,
                painted("fill", colour),
                escaped(&words)
            ));
        }
    }

    fn mesh(&mut self, mesh: &Mesh) {
        let Some(first) = mesh.vertices.first() else { return };
        let fill = if mesh.texture_id == TextureId::default() {
            painted("fill", first.color)
        } else {
            let ground = self.textures.grounds.iter().find(|(id, _)| *id == mesh.texture_id);
            let Some(&(_, ground)) = ground else { return self.pixels(mesh.calc_bounds()) };
            format!(r#"fill="url(#p{})""#, self.svg.ground(ground, first.color))
        };
        self.svg.element(&format!(r#"<path d="{}" {fill}/>"#, outline(mesh)));
    }

    /// The pixels of the screen, where what lies over them lies too.
    fn pixels(&mut self, rect: Rect) {
        let rect = rect.intersect(self.area);
        let png = rect.is_positive().then(|| (self.textures.pixels)(rect));
        let Some(png) = png.flatten() else { return };
        self.svg.element(&format!(
            r#"<image x="{:.2}" y="{:.2}" width="{:.2}" height="{:.2}" preserveAspectRatio="none" image-rendering="pixelated" href="data:image/png;base64,{png}"/>"#,
            rect.left(),
            rect.top(),
            rect.width(),
            rect.height()
        ));
    }
}

/// A fill and a stroke.
fn filled(fill: Color32, stroke: Stroke) -> String {
    let mut paint = match fill {
        Color32::TRANSPARENT => r#"fill="none""#.to_owned(),
        fill => painted("fill", fill),
    };
    if !stroke.is_empty() {
        let _ = write!(
            paint,
            r#" {} stroke-width="{}""#,
            painted("stroke", stroke.color),
            stroke.width
        );
    }
    paint
}

/// A strip between two lines as one area, anything else triangle by triangle.
fn outline(mesh: &Mesh) -> String {
    let point = |at: usize| mesh.vertices[at].pos;
    let n = mesh.vertices.len();
    let strip = n >= 4
        && n.is_multiple_of(2)
        && mesh.indices.len() == 3 * (n - 2)
        && mesh.indices.chunks_exact(6).enumerate().all(|(i, six)| {
            let first = 2 * i as u32;
            six == [first, first + 1, first + 2, first + 1, first + 2, first + 3]
        });
    let mut path = String::new();
    let mut area = |corners: &[Pos2]| {
        for (i, corner) in corners.iter().enumerate() {
            let letter = if i == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.2} {:.2}", corner.x, corner.y);
        }
        path.push('Z');
    };
    if strip {
        let lower = (0..n).step_by(2).map(point);
        let upper = (0..n).skip(1).step_by(2).map(point).collect::<Vec<_>>();
        area(&lower.chain(upper.into_iter().rev()).collect::<Vec<_>>());
    } else {
        for triangle in mesh.indices.chunks_exact(3) {
            area(&[0, 1, 2].map(|corner| point(triangle[corner] as usize)));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use egui::{Align2, FontId, pos2, vec2};

    use super::super::paint;
    use super::super::pattern::Patterns;
    use super::*;

    #[test]
    fn everything_that_is_painted_is_in_the_file() {
        let ctx = egui::Context::default();
        let area = Rect::from_min_size(pos2(10.0, 10.0), vec2(100.0, 50.0));
        let mut file = Vec::new();
        let mut output = ctx.run_ui(egui::RawInput::default(), |ui| {
            let patterns = Patterns::new(ui.ctx());
            let hatch = paint::hatch_texture(ui.ctx());
            let image = egui::ColorImage::filled([2, 2], Color32::RED);
            let image = ui.ctx().load_texture("x", image, egui::TextureOptions::NEAREST);
            let painter = ui.painter();
            let square = |x: f32| Rect::from_min_size(pos2(x, 20.0), vec2(10.0, 10.0));
            painter.rect(
                square(12.0),
                3.0,
                Color32::BLUE,
                Stroke::new(1.0, Color32::WHITE),
                StrokeKind::Inside,
            );
            painter.circle_filled(
                pos2(40.0, 30.0),
                4.0,
                Color32::from_rgba_unmultiplied(255, 0, 0, 51),
            );
            painter.line(
                vec![pos2(20.0, 40.0), pos2(30.0, 45.0), pos2(40.0, 40.0)],
                Stroke::new(2.0, Color32::GREEN),
            );
            painter.text(
                pos2(50.0, 30.0),
                Align2::LEFT_TOP,
                "a < b",
                FontId::proportional(12.0),
                Color32::GRAY,
            );
            painter.add(paint::band(&[60.0, 70.0], &[30.0, 32.0], &[20.0, 22.0], Color32::YELLOW));
            patterns.over(painter, square(75.0), 9);
            paint::hatch_over(painter, square(90.0), hatch.id(), Color32::LIGHT_GRAY);
            paint::image(painter, square(60.0), &image, paint::WHOLE);
            // Outside of the card, and half outside of it.
            painter.circle_filled(pos2(300.0, 30.0), 4.0, Color32::KHAKI);
            painter.rect_filled(square(105.0), 0.0, Color32::KHAKI);
            let shapes: Vec<ClippedShape> = ui.ctx().graphics(|layers| {
                layers.get(ui.layer_id()).unwrap().all_entries().cloned().collect()
            });
            let grounds = patterns.textures().map(|(id, pattern)| (id, Ground::Of(pattern)));
            let grounds = grounds.chain([(hatch.id(), Ground::Hatch)]);
            let pixels = |_: Rect| Some("AAAA".to_owned());
            let textures = Textures { grounds: grounds.collect(), pixels: &pixels };
            file = svg(&shapes, area, &textures, "a <card>");
        });
        output.textures_delta.clear();
        let file = String::from_utf8(file).unwrap();
        for expected in [
            r#"viewBox="10 10 100 50""#,
            "<title>a &lt;card&gt;</title>",
            r##"<rect x="12.50" y="20.50" width="9.00" height="9.00" rx="2.5" fill="#0000ff" stroke="#ffffff" stroke-width="1"/>"##,
            r##"r="4.00" fill="#ff0000" fill-opacity="0.200"/>"##,
            r#"<polyline points="20.00,40.00 30.00,45.00 40.00,40.00""#,
            ">a &lt; b</text>",
            r##"d="M60.00 30.00L70.00 32.00L70.00 22.00L60.00 20.00Z" fill="#ffff00""##,
            r#"<pattern id="p0""#,
            r#"fill="url(#p1)""#,
            r#"href="data:image/png;base64,AAAA""#,
            r#"<g clip-path="url(#c0)">"#,
        ] {
            assert!(file.contains(expected), "{expected} is not in\n{file}");
        }
        assert!(!file.contains("300.00"), "{file}");
        assert_eq!(file.matches("<g").count(), file.matches("</g>").count());
    }
}
