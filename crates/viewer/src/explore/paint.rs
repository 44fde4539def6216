//! Small pieces that several views paint: text, an expert's chip, the hatch, bands.

use std::sync::Arc;

use egui::epaint::{Mesh, Vertex};
use egui::{
    Align2, Color32, Context, FontId, Galley, Painter, Pos2, Rect, Shape, Stroke, StrokeKind,
    TextureHandle, TextureId, TextureOptions, TextureWrapMode, Ui, Vec2, pos2, vec2,
};

use super::colours::Ink;
use crate::palette;
use crate::theme::Look;

/// Points from one line of the hatch to the next.
const HATCH: f32 = 6.0;
/// Texels along a side of the hatch's texture.
const HATCH_TEXELS: usize = 32;

/// Text at an anchor; returns where it lies.
pub(super) fn text(
    painter: &Painter,
    at: Pos2,
    anchor: Align2,
    text: impl ToString,
    size: f32,
    colour: Color32,
) -> Rect {
    painter.text(at, anchor, text, FontId::proportional(size), colour)
}

/// Text that is cut off with an ellipsis where it is wider than `width`.
pub(super) fn text_within(
    painter: &Painter,
    at: Pos2,
    words: &str,
    size: f32,
    colour: Color32,
    width: f32,
) {
    let font = FontId::proportional(size);
    let mut job = egui::text::LayoutJob::simple_singleline(words.to_owned(), font, colour);
    job.wrap = egui::text::TextWrapping::truncate_at_width(width.max(8.0));
    let galley: Arc<Galley> = painter.fonts_mut(|fonts| fonts.layout_job(job));
    painter.galley(at, galley, colour);
}

#[expect(clippy::needless_pass_by_value, reason = "a number or a word, as it comes")]
/// Text over something: a veil behind it keeps it readable.
pub(super) fn text_over(
    painter: &Painter,
    at: Pos2,
    words: impl ToString,
    size: f32,
    colour: Color32,
    veil: Color32,
) {
    let galley = painter.layout_no_wrap(words.to_string(), FontId::proportional(size), colour);
    let rect = Align2::CENTER_CENTER.anchor_size(at, galley.size());
    painter.rect_filled(rect.expand2(vec2(2.0, -1.0)), 3.0, veil);
    painter.galley(rect.min, galley, colour);
}

/// The number of an expert on its colour, in a rectangle.
pub(super) fn chip_in(painter: &Painter, rect: Rect, expert: usize, radius: f32) {
    let colour = palette::expert(expert);
    painter.rect_filled(rect, radius, colour);
    if rect.height() >= 9.0 && rect.width() >= 9.0 {
        let size = (rect.height() - 3.0).clamp(8.0, 12.0);
        let ink = palette::text_on(colour);
        text(painter, rect.center(), Align2::CENTER_CENTER, expert, size, ink);
    }
}

/// Size of a chip in a line of text.
pub(super) const CHIP: Vec2 = vec2(18.0, 16.0);

/// A chip whose left middle is at a point.
pub(super) fn chip(painter: &Painter, left: Pos2, expert: usize) -> Rect {
    let rect = Rect::from_min_size(left - vec2(0.0, CHIP.y / 2.0), CHIP);
    chip_in(painter, rect, expert, 4.0);
    rect
}

/// A white ring with a dark edge: what is chosen, on any ground.
pub(super) fn ring(painter: &Painter, rect: Rect, width: f32) {
    painter.rect_stroke(rect, 0.0, Stroke::new(width + 2.0, Color32::BLACK), StrokeKind::Middle);
    painter.rect_stroke(rect, 0.0, Stroke::new(width, Color32::WHITE), StrokeKind::Middle);
}

/// The texture of the hatch: white lines, to be tinted.
pub(super) fn hatch_texture(ctx: &Context) -> TextureHandle {
    let n = HATCH_TEXELS;
    let mut image = egui::ColorImage::filled([n, n], Color32::TRANSPARENT);
    let wide = n as f32 / HATCH;
    for y in 0..n {
        for x in 0..n {
            let across = ((x + y) % n) as f32;
            let away = (across - n as f32 / 2.0).abs();
            let alpha = (wide * 0.75 - away).clamp(0.0, wide * 0.5) / (wide * 0.5);
            image.pixels[y * n + x] = Color32::from_white_alpha((alpha * 255.0) as u8);
        }
    }
    let options = TextureOptions { wrap_mode: TextureWrapMode::Repeat, ..TextureOptions::LINEAR };
    ctx.load_texture("hatch", image, options)
}

/// Hatch on the ground of a well: nobody.
pub(super) fn hatch(painter: &Painter, rect: Rect, texture: TextureId, ink: Ink) {
    painter.rect_filled(rect, 0.0, ink.look.well);
    hatch_over(painter, rect, texture, ink.hatch);
}

/// Many hatched rectangles, painted as two meshes.
pub(super) struct Hatched {
    ground: Mesh,
    lines: Option<Mesh>,
    ink: Ink,
}

impl Hatched {
    pub(super) fn new(texture: Option<&TextureHandle>, ink: Ink) -> Self {
        let lines = texture.map(|texture| Mesh::with_texture(texture.id()));
        Self { ground: Mesh::default(), lines, ink }
    }

    pub(super) fn add(&mut self, rect: Rect) {
        if let Some(lines) = &mut self.lines {
            self.ground.add_colored_rect(rect, self.ink.look.well);
            lines.add_rect_with_uv(rect, hatch_uv(rect), self.ink.hatch);
        }
    }

    pub(super) fn paint(self, painter: &Painter) {
        for mesh in [Some(self.ground), self.lines].into_iter().flatten() {
            if !mesh.is_empty() {
                painter.add(Shape::mesh(mesh));
            }
        }
    }
}

/// The part of the hatch in a rectangle: it lies still on the screen.
fn hatch_uv(rect: Rect) -> Rect {
    Rect::from_min_max(
        pos2(rect.min.x / HATCH, rect.min.y / HATCH),
        pos2(rect.max.x / HATCH, rect.max.y / HATCH),
    )
}

/// Hatch over what is there.
pub(super) fn hatch_over(painter: &Painter, rect: Rect, texture: TextureId, colour: Color32) {
    let mut mesh = Mesh::with_texture(texture);
    mesh.add_rect_with_uv(rect, hatch_uv(rect), colour);
    painter.add(Shape::mesh(mesh));
}

/// The area between two lines over the same places, as a strip of triangles: bands may bend inwards.
pub(super) fn band(x: &[f32], low: &[f32], high: &[f32], colour: Color32) -> Shape {
    let mut mesh = Mesh::default();
    for ((&x, &low), &high) in x.iter().zip(low).zip(high) {
        for y in [low, high] {
            let uv = egui::epaint::WHITE_UV;
            mesh.vertices.push(Vertex { pos: pos2(x, y), uv, color: colour });
        }
    }
    for i in 1..x.len() as u32 {
        mesh.add_triangle(2 * i - 2, 2 * i - 1, 2 * i);
        mesh.add_triangle(2 * i - 1, 2 * i, 2 * i + 1);
    }
    Shape::mesh(mesh)
}

/// A part of a texture, pixel by pixel.
pub(super) fn image(painter: &Painter, rect: Rect, texture: &TextureHandle, uv: Rect) {
    painter.image(texture.id(), rect, uv, Color32::WHITE);
}

/// All of a texture.
pub(super) const WHOLE: Rect = Rect::from_min_max(Pos2::ZERO, pos2(1.0, 1.0));

/// A ratio to a fair share, short.
pub(super) fn times(ratio: f32) -> String {
    if ratio >= 9.95 { format!("×{ratio:.0}") } else { format!("×{ratio:.1}") }
}

/// A share as whole percent.
pub(super) fn percent(share: f32) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A number with its sign, one digit after the point.
pub(super) fn signed(value: f32) -> String {
    let sign = if value < 0.0 { "−" } else { "+" };
    format!("{sign}{:.1}", value.abs())
}

/// A number with its sign, two digits after the point.
pub(super) fn signed_fine(value: f32) -> String {
    let sign = if value < 0.0 { "−" } else { "+" };
    format!("{sign}{:.2}", value.abs())
}

/// Why a view is empty, in an area that has room for two lines.
pub(super) fn missing(ui: &mut Ui, area: Rect, words: Option<String>) {
    let Some(words) = words else { return };
    let builder = egui::UiBuilder::new().max_rect(area).id_salt("missing");
    ui.scope_builder(builder, |ui| {
        let colour = Look::of(ui).weak;
        ui.add(egui::Label::new(egui::RichText::new(words).size(13.0).color(colour)).wrap());
    });
}

/// A card's ground.
pub(super) fn card(painter: &Painter, rect: Rect, ink: Ink) {
    painter.rect(rect, 10.0, ink.look.card, Stroke::new(1.0, ink.look.line), StrokeKind::Inside);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_made_of_triangles_between_their_lines() {
        let Shape::Mesh(mesh) =
            band(&[0.0, 1.0, 2.0], &[5.0, 4.0, 6.0], &[3.0, 1.0, 2.0], Color32::RED)
        else {
            panic!("a mesh")
        };
        assert_eq!((mesh.vertices.len(), mesh.indices.len()), (6, 12));
        assert!(mesh.is_valid());
        assert_eq!(mesh.calc_bounds(), Rect::from_min_max(pos2(0.0, 1.0), pos2(2.0, 6.0)));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([1.64, 12.3].map(times), ["×1.6", "×12"]);
        assert_eq!(percent(0.157), "16 %");
        assert_eq!([0.04, -2.26].map(signed), ["+0.0", "−2.3"]);
        assert_eq!([0.044, -0.256].map(signed_fine), ["+0.04", "−0.26"]);
    }
}
