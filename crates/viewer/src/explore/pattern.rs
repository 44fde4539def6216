//! The second channel of an expert beside its colour, where there is no room for its number: a pattern for every eight
//! experts: none, dots, columns, rows, dots, columns, rows, and a grid. Colours repeat after sixteen, combinations of
//! colour and pattern never. Diagonal lines are not among them, because hatching means that no expert takes a patch.

use egui::epaint::{Mesh, Vertex};
use egui::{
    Color32, Context, Painter, Pos2, Rect, Shape, TextureHandle, TextureId, TextureOptions,
    TextureWrapMode, pos2, vec2,
};

use crate::palette;

/// Experts of one pattern.
pub(super) const EIGHT: usize = 8;
/// Points from one element of a pattern to the next.
const PERIOD: f32 = 5.0;
/// Texels along a side of a texture.
const TEXELS: usize = 20;
/// How strong a pattern is on its colour.
const STRENGTH: f32 = 0.6;

/// What lies over a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Dots,
    Columns,
    Rows,
    Grid,
}

const ALL: [Pattern; 4] = [Pattern::Dots, Pattern::Columns, Pattern::Rows, Pattern::Grid];

/// The pattern of each eight experts after the first. Colours repeat in every second of them, patterns there do not.
const GROUPS: [Pattern; 7] = {
    use Pattern::{Columns, Dots, Grid, Rows};
    [Dots, Columns, Rows, Dots, Columns, Rows, Grid]
};

impl Pattern {
    /// The pattern of an expert; none for the first eight.
    pub(super) fn of(expert: usize) -> Option<Self> {
        let group = (expert / EIGHT).checked_sub(1)?;
        Some(GROUPS[group % GROUPS.len()])
    }

    /// Whether it covers a place, in periods from a corner of one of its elements.
    pub(super) fn covers(self, x: f32, y: f32) -> bool {
        let away = |at: f32| (at.rem_euclid(1.0) - 0.5).abs();
        match self {
            Self::Dots => away(x).hypot(away(y)) < 0.28,
            Self::Columns => away(x) < 0.17,
            Self::Rows => away(y) < 0.17,
            Self::Grid => away(x).min(away(y)) < 0.09,
        }
    }
}

/// The colour of a pattern on an expert's colour.
pub(super) fn ink(expert: usize) -> Color32 {
    palette::text_on(palette::expert(expert)).gamma_multiply(STRENGTH)
}

/// The textures of all patterns, white, to be tinted.
pub(super) struct Patterns([TextureHandle; 4]);

impl Patterns {
    pub(super) fn new(ctx: &Context) -> Self {
        let texture = |pattern: Pattern| {
            let mut image = egui::ColorImage::filled([TEXELS; 2], Color32::TRANSPARENT);
            for (at, pixel) in image.pixels.iter_mut().enumerate() {
                let place = |at: usize| (at as f32 + 0.5) / TEXELS as f32;
                if pattern.covers(place(at % TEXELS), place(at / TEXELS)) {
                    *pixel = Color32::WHITE;
                }
            }
            let wrap_mode = TextureWrapMode::Repeat;
            let options = TextureOptions { wrap_mode, ..TextureOptions::LINEAR };
            ctx.load_texture("pattern", image, options)
        };
        Self(ALL.map(texture))
    }

    /// The texture of each pattern.
    pub(super) fn textures(&self) -> impl Iterator<Item = (TextureId, Pattern)> {
        ALL.into_iter().zip(&self.0).map(|(pattern, texture)| (texture.id(), pattern))
    }

    /// The texture of an expert; none for the first eight.
    fn of(&self, expert: usize) -> Option<TextureId> {
        let pattern = Pattern::of(expert)?;
        ALL.iter().position(|other| *other == pattern).map(|place| self.0[place].id())
    }

    /// A shape in the pattern of an expert, to be filled with places: nothing for the first eight.
    pub(super) fn shape(&self, expert: usize) -> Option<Patterned> {
        Some(Patterned { mesh: Mesh::with_texture(self.of(expert)?), colour: ink(expert) })
    }

    /// The pattern of an expert over a rectangle.
    pub(super) fn over(&self, painter: &Painter, rect: Rect, expert: usize) {
        if let Some(mut shape) = self.shape(expert) {
            shape.add_rect(rect);
            shape.paint(painter);
        }
    }
}

/// A mesh whose texture lies still on the screen, so that shapes beside each other continue a pattern.
pub(super) struct Patterned {
    mesh: Mesh,
    colour: Color32,
}

impl Patterned {
    fn vertex(&mut self, pos: Pos2) -> u32 {
        let uv = pos2(pos.x / PERIOD, pos.y / PERIOD);
        self.mesh.vertices.push(Vertex { pos, uv, color: self.colour });
        self.mesh.vertices.len() as u32 - 1
    }

    pub(super) fn add_triangle(&mut self, corners: [Pos2; 3]) {
        let [a, b, c] = corners.map(|corner| self.vertex(corner));
        self.mesh.add_triangle(a, b, c);
    }

    pub(super) fn add_rect(&mut self, rect: Rect) {
        let [a, b, c, d] =
            [rect.left_top(), rect.right_top(), rect.left_bottom(), rect.right_bottom()]
                .map(|corner| self.vertex(corner));
        self.mesh.add_triangle(a, b, c);
        self.mesh.add_triangle(b, c, d);
    }

    /// The area between two lines over the same places.
    pub(super) fn add_band(&mut self, x: &[f32], low: &[f32], high: &[f32]) {
        let first = self.mesh.vertices.len() as u32;
        for ((&x, &low), &high) in x.iter().zip(low).zip(high) {
            self.vertex(pos2(x, low));
            self.vertex(pos2(x, high));
        }
        for i in 1..x.len() as u32 {
            let at = first + 2 * i;
            self.mesh.add_triangle(at - 2, at - 1, at);
            self.mesh.add_triangle(at - 1, at, at + 1);
        }
    }

    /// Paints it, unless it is empty.
    pub(super) fn paint(self, painter: &Painter) {
        if !self.mesh.is_empty() {
            painter.add(Shape::mesh(self.mesh));
        }
    }
}

/// A small mark of an expert whose number has no room: a disc, a square, a diamond, a triangle or a plus.
pub(super) fn mark(painter: &Painter, at: Pos2, radius: f32, expert: usize) {
    let colour = palette::expert(expert);
    let outline = egui::Stroke::NONE;
    match Pattern::of(expert) {
        None => _ = painter.circle_filled(at, radius, colour),
        Some(Pattern::Dots) => {
            let rect = Rect::from_center_size(at, vec2(1.8, 1.8) * radius);
            painter.rect_filled(rect, 0.0, colour);
        }
        Some(Pattern::Columns) => {
            let ends = [vec2(0.0, -1.0), vec2(1.0, 0.0), vec2(0.0, 1.0), vec2(-1.0, 0.0)];
            let points = ends.map(|end| at + end * (1.25 * radius)).to_vec();
            painter.add(Shape::convex_polygon(points, colour, outline));
        }
        Some(Pattern::Rows) => {
            let ends = [vec2(0.0, -1.1), vec2(1.0, 0.8), vec2(-1.0, 0.8)];
            let points = ends.map(|end| at + end * (1.2 * radius)).to_vec();
            painter.add(Shape::convex_polygon(points, colour, outline));
        }
        Some(Pattern::Grid) => {
            for size in [vec2(2.2, 0.9), vec2(0.9, 2.2)] {
                painter.rect_filled(Rect::from_center_size(at, size * radius), 0.0, colour);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use diffmoe::model::MOST_EXPERTS;

    use super::*;

    #[test]
    fn every_expert_has_a_colour_and_a_pattern_of_its_own() {
        for a in 0..MOST_EXPERTS {
            for b in 0..a {
                let same = palette::expert(a) == palette::expert(b);
                assert!(!same || Pattern::of(a) != Pattern::of(b), "{a} and {b}");
            }
        }
        assert!((0..EIGHT).all(|expert| Pattern::of(expert).is_none()));
        assert!((EIGHT..MOST_EXPERTS).all(|expert| Pattern::of(expert).is_some()));
    }

    #[test]
    fn patterns_cover_a_part_of_their_ground() {
        let n = 40;
        let covered = |pattern: Pattern| {
            let at = |i: usize| (i as f32 + 0.5) / n as f32;
            (0..n * n).filter(|i| pattern.covers(at(i % n), at(i / n))).count() as f32
                / (n * n) as f32
        };
        for pattern in ALL {
            let share = covered(pattern);
            assert!((0.2..0.4).contains(&share), "{pattern:?} {share}");
        }
        assert_eq!(Pattern::Dots.covers(-0.5, 7.5), Pattern::Dots.covers(0.5, 0.5));
        assert!(Pattern::Columns.covers(0.5, 0.0) && !Pattern::Rows.covers(0.5, 0.0));
    }

    #[test]
    fn bands_have_a_pattern_between_their_lines() {
        let ctx = Context::default();
        let patterns = Patterns::new(&ctx);
        assert!(patterns.shape(7).is_none());
        let mut shape = patterns.shape(8).unwrap();
        shape.add_band(&[0.0, 10.0, 20.0], &[5.0, 4.0, 6.0], &[3.0, 1.0, 2.0]);
        assert_eq!((shape.mesh.vertices.len(), shape.mesh.indices.len()), (6, 12));
        assert!(shape.mesh.is_valid());
        assert_eq!(shape.mesh.vertices[5].uv, pos2(4.0, 0.4));
        let textures: Vec<_> = [8, 16, 24].map(|expert| patterns.of(expert)).to_vec();
        assert!(textures[0] != textures[1] && textures[1] != textures[2]);
    }
}
