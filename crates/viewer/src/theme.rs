//! The theme: surfaces, lines, text and one accent colour, light and dark; spacing and type sizes.

use std::sync::Arc;

use egui::style::{HandleShape, WidgetVisuals};
use egui::{
    Color32, Context, CornerRadius, FontData, FontDefinitions, FontFamily, FontId, Margin, Shadow,
    Stroke, Style, TextStyle, Theme, Ui, Visuals, vec2,
};

/// The colours of a theme. Everything on screen uses these, the expert colours and the ramp, nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Behind everything.
    pub(super) page: Color32,
    /// Panels and cards.
    pub(super) card: Color32,
    /// Where something can be entered, and behind plots.
    pub(super) well: Color32,
    /// A button.
    pub(super) control: Color32,
    /// A button under the pointer.
    pub(super) control_hovered: Color32,
    /// Separators and outlines.
    pub(super) line: Color32,
    /// Text.
    pub(super) text: Color32,
    /// Text of less weight.
    pub(super) weak: Color32,
    /// The one thing to press, and what is chosen.
    pub(super) accent: Color32,
    /// Text on the accent.
    pub(super) on_accent: Color32,
    /// Behind what is chosen.
    pub(super) chosen: Color32,
    /// Bad news.
    pub(super) danger: Color32,
}

const fn rgb(value: u32) -> Color32 {
    Color32::from_rgb((value >> 16) as u8, (value >> 8) as u8, value as u8)
}

const DARK: Look = Look {
    page: rgb(0x0F_11_17),
    card: rgb(0x17_1A_22),
    well: rgb(0x0B_0D_11),
    control: rgb(0x25_2A_36),
    control_hovered: rgb(0x32_39_49),
    line: rgb(0x2B_30_3D),
    text: rgb(0xE7_EA_F1),
    weak: rgb(0x9B_A4_B6),
    accent: rgb(0x7F_A0_FF),
    on_accent: rgb(0x08_0D_1E),
    chosen: rgb(0x2A_3A_6B),
    danger: rgb(0xFF_7A_70),
};

const LIGHT: Look = Look {
    page: rgb(0xF1_F2_F6),
    card: rgb(0xFF_FF_FF),
    well: rgb(0xF5_F6_FA),
    control: rgb(0xE8_EB_F2),
    control_hovered: rgb(0xDA_DF_EB),
    line: rgb(0xD8_DC_E6),
    text: rgb(0x1A_1E_29),
    weak: rgb(0x5A_63_75),
    accent: rgb(0x2F_50_C9),
    on_accent: rgb(0xFF_FF_FF),
    chosen: rgb(0xD5_DE_FB),
    danger: rgb(0xB4_2B_22),
};

impl Look {
    /// The colours of the theme that is shown.
    pub(super) fn of(ui: &Ui) -> Self {
        if ui.visuals().dark_mode { DARK } else { LIGHT }
    }
}

/// Gap between things that belong together.
pub(super) const GAP: f32 = 8.0;
/// Height of a control under a thumb.
pub(super) const THUMB: f32 = 46.0;
/// The size of a caption's text.
pub(super) const CAPTION: f32 = 12.0;

/// Sets the font and both themes of egui, which follows the system until the user chooses.
pub(super) fn install(ctx: &Context) {
    ctx.set_fonts(fonts());
    ctx.set_style_of(Theme::Dark, style(DARK, Visuals::dark()));
    ctx.set_style_of(Theme::Light, style(LIGHT, Visuals::light()));
}

/// One font for all text: egui's own, reduced to the letters and signs of `fonts/make.py`. Whole, with its hints and with
/// egui's second font, for code, it would be a tenth of the page.
fn fonts() -> FontDefinitions {
    let name = "Ubuntu-Light-derivative-diffmoe";
    let font =
        FontData::from_static(include_bytes!("../fonts/Ubuntu-Light-derivative-diffmoe.ttf"));
    FontDefinitions {
        font_data: [(name.to_owned(), Arc::new(font))].into(),
        families: [FontFamily::Proportional, FontFamily::Monospace]
            .map(|family| (family, vec![name.to_owned()]))
            .into(),
    }
}

/// Makes controls big enough for thumbs.
pub(super) fn for_thumbs(ui: &mut Ui) {
    let spacing = ui.spacing_mut();
    spacing.interact_size.y = 38.0;
    spacing.button_padding = vec2(12.0, 8.0);
    spacing.item_spacing = vec2(10.0, 10.0);
    spacing.icon_width = 22.0;
    spacing.icon_width_inner = 13.0;
    spacing.slider_rail_height = 10.0;
}

fn style(look: Look, base: Visuals) -> Style {
    let text = |size| FontId::new(size, FontFamily::Proportional);
    let mut style = Style {
        visuals: visuals(look, base),
        text_styles: [
            (TextStyle::Small, text(CAPTION)),
            (TextStyle::Body, text(14.0)),
            (TextStyle::Button, text(14.0)),
            (TextStyle::Heading, text(15.5)),
            (TextStyle::Monospace, FontId::new(13.0, FontFamily::Monospace)),
        ]
        .into(),
        animation_time: 0.1,
        ..Style::default()
    };
    let spacing = &mut style.spacing;
    spacing.item_spacing = vec2(GAP, 7.0);
    spacing.button_padding = vec2(10.0, 5.0);
    spacing.interact_size = vec2(36.0, 28.0);
    spacing.slider_rail_height = 6.0;
    spacing.icon_width = 17.0;
    spacing.menu_margin = Margin::same(8);
    spacing.window_margin = Margin::same(16);
    spacing.tooltip_width = 320.0;
    spacing.combo_width = 40.0;
    style.interaction.selectable_labels = false;
    style.interaction.tooltip_delay = 0.4;
    style
}

fn visuals(look: Look, base: Visuals) -> Visuals {
    let radius = CornerRadius::same(7);
    let widget = |fill, line, text, width| WidgetVisuals {
        bg_fill: fill,
        weak_bg_fill: fill,
        bg_stroke: Stroke::new(if line == Color32::TRANSPARENT { 0.0 } else { 1.0 }, line),
        corner_radius: radius,
        fg_stroke: Stroke::new(width, text),
        expansion: 0.0,
    };
    let mut visuals = base;
    let widgets = &mut visuals.widgets;
    widgets.noninteractive = widget(look.card, look.line, look.text, 1.0);
    widgets.inactive = widget(look.control, Color32::TRANSPARENT, look.text, 1.0);
    widgets.hovered = widget(look.control_hovered, Color32::TRANSPARENT, look.text, 1.5);
    widgets.active = widget(look.control_hovered, look.accent, look.text, 1.5);
    widgets.open = widget(look.control_hovered, look.line, look.text, 1.0);
    visuals.selection.bg_fill = look.chosen;
    visuals.selection.stroke = Stroke::new(1.0, look.text);
    visuals.hyperlink_color = look.accent;
    visuals.faint_bg_color = look.well;
    visuals.extreme_bg_color = look.well;
    visuals.code_bg_color = look.well;
    visuals.error_fg_color = look.danger;
    visuals.weak_text_color = Some(look.weak);
    visuals.panel_fill = look.page;
    visuals.window_fill = look.card;
    visuals.window_stroke = Stroke::new(1.0, look.line);
    visuals.window_corner_radius = CornerRadius::same(10);
    visuals.menu_corner_radius = CornerRadius::same(8);
    let shade = if visuals.dark_mode { 120 } else { 40 };
    let shadow =
        Shadow { offset: [0, 6], blur: 20, spread: 0, color: Color32::from_black_alpha(shade) };
    visuals.window_shadow = shadow;
    visuals.popup_shadow = shadow;
    visuals.slider_trailing_fill = true;
    visuals.handle_shape = HandleShape::Circle;
    visuals.text_cursor.stroke = Stroke::new(2.0, look.accent);
    visuals
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn contrast(a: Color32, b: Color32) -> f32 {
        let luminance = |c: Color32| {
            let part = |v: u8| {
                let v = f32::from(v) / 255.0;
                if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * part(c.r()) + 0.7152 * part(c.g()) + 0.0722 * part(c.b())
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_has_the_contrast_that_wcag_asks_for() {
        for look in [DARK, LIGHT] {
            for ground in
                [look.page, look.card, look.well, look.control, look.control_hovered, look.chosen]
            {
                assert!(contrast(look.text, ground) > 4.5, "text on {ground:?}");
            }
            for ground in [look.page, look.card, look.well] {
                assert!(contrast(look.weak, ground) > 4.5, "weak text on {ground:?}");
                assert!(contrast(look.danger, ground) > 4.5, "bad news on {ground:?}");
            }
            assert!(contrast(look.on_accent, look.accent) > 4.5);
        }
    }

    /// The sources of this package, whose strings the app shows.
    fn sources(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                found.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn the_font_has_every_character_that_the_app_writes() {
        let ctx = Context::default();
        install(&ctx);
        ctx.run_ui(egui::RawInput::default(), |_| {}).textures_delta.clear();
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let lines = files.iter().flat_map(|file| file.lines());
        let written: BTreeSet<char> = lines
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(str::chars)
            .filter(|c| !c.is_ascii())
            .collect();
        assert!(written.contains(&'×'), "no text was found");
        let font = FontId::proportional(14.0);
        let missing: Vec<_> =
            written.into_iter().filter(|&c| !ctx.fonts_mut(|f| f.has_glyph(&font, c))).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(!ctx.fonts_mut(|f| f.has_glyph(&font, '\u{8c61}')), "every character passes");
    }
}
