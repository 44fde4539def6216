//! Vector icons for buttons. egui's fonts do not have them, and an icon font would be a large part of the page.

use egui::epaint::PathShape;
use egui::{Atom, Color32, IconData, Painter, Pos2, Rect, Shape, Stroke, StrokeKind, pos2, vec2};

use super::palette;

/// A sign on a button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Icon {
    Play,
    Pause,
    Step,
    Stop,
    Dice,
    Save,
    Keep,
    Link,
    Close,
    Back,
    Forward,
    Open,
    Trash,
    Down,
    Grid,
}

impl Icon {
    /// The sign as part of a button, in the colour of its text.
    pub(super) fn atom(self) -> Atom<'static> {
        Atom::paint(vec2(15.0, 15.0), move |ui, args| {
            self.paint(ui.painter(), args.rect, args.fallback_text_color);
        })
    }

    /// Draws the sign into a square.
    pub(super) fn paint(self, painter: &Painter, rect: Rect, colour: Color32) {
        let side = rect.width().min(rect.height());
        let square = Rect::from_center_size(rect.center(), vec2(side, side));
        let at = |x: f32, y: f32| square.min + vec2(x, y) * side;
        let pen = Stroke::new((side / 10.0).max(1.3), colour);
        let line = |points: &[(f32, f32)]| {
            painter.add(Shape::line(
                points.iter().map(|&(x, y)| at(x, y)).collect::<Vec<Pos2>>(),
                pen,
            ));
        };
        let solid = |points: &[(f32, f32)]| {
            let points = points.iter().map(|&(x, y)| at(x, y)).collect();
            painter.add(PathShape::convex_polygon(points, colour, Stroke::NONE));
        };
        let bar = |x0: f32, y0: f32, x1: f32, y1: f32| {
            painter.rect_filled(Rect::from_two_pos(at(x0, y0), at(x1, y1)), side / 14.0, colour);
        };
        match self {
            Self::Play => solid(&[(0.22, 0.1), (0.88, 0.5), (0.22, 0.9)]),
            Self::Pause => {
                bar(0.2, 0.12, 0.42, 0.88);
                bar(0.58, 0.12, 0.8, 0.88);
            }
            Self::Step => {
                solid(&[(0.12, 0.12), (0.66, 0.5), (0.12, 0.88)]);
                bar(0.7, 0.12, 0.86, 0.88);
            }
            Self::Stop => bar(0.18, 0.18, 0.82, 0.82),
            Self::Dice => {
                let outline = Rect::from_two_pos(at(0.08, 0.08), at(0.92, 0.92));
                painter.rect_stroke(outline, side / 5.0, pen, StrokeKind::Middle);
                for (x, y) in [(0.31, 0.31), (0.69, 0.31), (0.5, 0.5), (0.31, 0.69), (0.69, 0.69)] {
                    painter.circle_filled(at(x, y), side / 12.0, colour);
                }
            }
            Self::Save => {
                line(&[(0.5, 0.06), (0.5, 0.64)]);
                line(&[(0.26, 0.42), (0.5, 0.66), (0.74, 0.42)]);
                line(&[(0.1, 0.72), (0.1, 0.92), (0.9, 0.92), (0.9, 0.72)]);
            }
            Self::Keep => {
                line(&[
                    (0.24, 0.08),
                    (0.76, 0.08),
                    (0.76, 0.92),
                    (0.5, 0.68),
                    (0.24, 0.92),
                    (0.24, 0.08),
                ]);
            }
            Self::Link => {
                painter.circle_stroke(at(0.24, 0.5), side * 0.17, pen);
                painter.circle_stroke(at(0.78, 0.2), side * 0.14, pen);
                painter.circle_stroke(at(0.78, 0.8), side * 0.14, pen);
                line(&[(0.39, 0.42), (0.66, 0.27)]);
                line(&[(0.39, 0.58), (0.66, 0.73)]);
            }
            Self::Close => {
                line(&[(0.2, 0.2), (0.8, 0.8)]);
                line(&[(0.8, 0.2), (0.2, 0.8)]);
            }
            Self::Back => line(&[(0.64, 0.14), (0.32, 0.5), (0.64, 0.86)]),
            Self::Forward => line(&[(0.36, 0.14), (0.68, 0.5), (0.36, 0.86)]),
            Self::Down => line(&[(0.2, 0.36), (0.5, 0.66), (0.8, 0.36)]),
            Self::Open => {
                line(&[
                    (0.08, 0.86),
                    (0.08, 0.16),
                    (0.38, 0.16),
                    (0.48, 0.3),
                    (0.92, 0.3),
                    (0.92, 0.86),
                    (0.08, 0.86),
                ]);
            }
            Self::Trash => {
                line(&[(0.1, 0.24), (0.9, 0.24)]);
                line(&[(0.36, 0.22), (0.36, 0.08), (0.64, 0.08), (0.64, 0.22)]);
                line(&[(0.2, 0.26), (0.27, 0.92), (0.73, 0.92), (0.8, 0.26)]);
            }
            Self::Grid => {
                for (x, y) in [(0.1, 0.1), (0.56, 0.1), (0.1, 0.56), (0.56, 0.56)] {
                    bar(x, y, x + 0.34, y + 0.34);
                }
            }
        }
    }
}

/// The cells of the project's sign: a token map of three by three patches, each with its expert.
const SIGN: [[usize; 3]; 3] = [[1, 0, 2], [4, 3, 0], [2, 1, 5]];

/// Draws the project's sign.
pub(super) fn paint_sign(painter: &Painter, rect: Rect) {
    let cell = rect.width() / 3.0;
    for (y, row) in SIGN.iter().enumerate() {
        for (x, &expert) in row.iter().enumerate() {
            let corner = rect.min + vec2(x as f32, y as f32) * cell;
            let patch = Rect::from_min_size(corner, vec2(cell, cell)).shrink(cell * 0.07);
            painter.rect_filled(patch, cell * 0.22, palette::expert(expert));
        }
    }
}

/// The project's sign as the icon of a window.
pub fn window_icon() -> IconData {
    const CELL: u32 = 21;
    const SIDE: u32 = 3 * CELL;
    let mut rgba = Vec::with_capacity((SIDE * SIDE * 4) as usize);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let inside = |v: u32| (2..CELL - 2).contains(&(v % CELL));
            let centre = pos2((x % CELL) as f32 - 10.0, (y % CELL) as f32 - 10.0);
            let corner = centre.x.abs() + centre.y.abs() > 14.0;
            let expert = SIGN[(y / CELL) as usize][(x / CELL) as usize];
            let colour = palette::expert(expert);
            let alpha = if inside(x) && inside(y) && !corner { 255 } else { 0 };
            rgba.extend([colour.r(), colour.g(), colour.b(), alpha]);
        }
    }
    IconData { rgba, width: SIDE, height: SIDE }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_window_icon_is_square_and_not_empty() {
        let icon = super::window_icon();
        assert_eq!(icon.rgba.len(), (icon.width * icon.height * 4) as usize);
        let solid = icon.rgba.chunks_exact(4).filter(|pixel| pixel[3] == 255).count();
        assert!(solid > icon.rgba.len() / 8, "{solid} solid pixels");
    }
}
