//! Views of a run: images and routing. Each file has a pure function from the record to a small view-model, tested
//! against the exported trace, and a function that draws it.

pub mod capacity;
pub mod experts;
pub mod image_grid;
pub mod token_map;

use egui::{FontId, Rangef, RichText};
use egui_plot::{AxisHints, GridMark, Plot};

use super::theme::Look;

/// About as many lines across a plot.
const LINES: f64 = 4.0;

/// Marks from 0 to `top` at 1, 2 or 5 times a power of ten, about four of them.
fn marks(top: f64) -> Vec<GridMark> {
    if !top.is_finite() || top <= 0.0 {
        return Vec::new();
    }
    let rough = top / LINES;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(power);
    (0..=(top / step) as u32)
        .map(|i| GridMark { value: f64::from(i) * step, step_size: step })
        .collect()
}

/// A number with as many digits as it needs, at most two after the point.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A plot that is looked at and pointed at, but neither moved nor zoomed, from 0 to `top`.
fn still_plot<'a>(look: Look, name: &'static str, below: &str, top: f64) -> Plot<'a> {
    let font = FontId::proportional(11.0);
    let across = AxisHints::new_x().label(RichText::new(below).size(11.0).color(look.weak));
    let up = AxisHints::new_y().min_thickness(28.0);
    let style = |axis: AxisHints<'a>, room| {
        let axis = axis.label_spacing(room).formatter(|mark, _| short(mark.value));
        axis.tick_label_font(font.clone()).tick_label_color(look.weak)
    };
    Plot::new(name)
        .custom_x_axes(vec![style(across, Rangef::new(9.0, 12.0))])
        .custom_y_axes(vec![style(up, Rangef::new(9.0, 12.0))])
        .include_y(0.0)
        .include_y(top)
        .y_grid_spacer(move |_| marks(top))
        .grid_spacing(Rangef::new(2.0, 12.0))
        .grid_color(look.line)
        .set_margin_fraction(egui::Vec2::ZERO)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(false)
        .allow_axis_zoom_drag(false)
        .allow_double_click_reset(false)
        .show_crosshair(false)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{marks, short};
    use diffmoe::engine::{ForwardRouting, LayerRouting};
    use diffmoe::model::Config;
    use diffmoe::scheduler::Branch;
    use diffmoe::trace::Trace;

    #[test]
    fn axes_have_a_few_round_marks() {
        let values = |top| marks(top).iter().map(|mark| mark.value).collect::<Vec<_>>();
        assert_eq!(values(1.3), [0.0, 0.5, 1.0]);
        assert_eq!(values(100.0), [0.0, 50.0, 100.0]);
        assert_eq!(values(75.0), [0.0, 20.0, 40.0, 60.0]);
        for top in [0.003, 1.0, 17.0, 40.0, 999.0, 1e9] {
            assert!((2..=5).contains(&values(top).len()), "{top}: {:?}", values(top));
        }
        assert_eq!([0.0, 0.5, 0.25, 30.0].map(short), ["0", "0.5", "0.25", "30"]);
        assert!(values(f64::NAN).is_empty() && values(0.0).is_empty());
    }

    pub(crate) fn config() -> Config {
        Config::from_json(
            r#"{"name":"test","kind":"diffmoe","t_kind":"flow","params":{"input_size":4,"num_classes":10,
            "patch_size":2,"depth":4,"hidden_size":64,"num_heads":4,
            "MoE_config":{"num_experts":3,"interleave":true}}}"#,
        )
        .unwrap()
    }

    /// Two steps of Heun with guidance: eight passes, two layers, two images of four tokens, three experts,
    /// and masks without a pattern.
    pub(crate) fn trace() -> Trace {
        let mut trace = Trace::new(&config(), vec![vec!["a".into(), "b".into()]]);
        let mut state = 12345_u32;
        let mut mask = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u64::from(state >> 13 & 0b111)
        };
        for step in 0..2 {
            for stage in 0..2 {
                for branch in [Branch::Conditional, Branch::Unconditional] {
                    let mut layer = |block| LayerRouting {
                        block,
                        masks: (0..8).map(|_| mask()).collect(),
                        scores: None,
                    };
                    let layers = vec![layer(1), layer(3)];
                    let time = (step + stage) as f32 / 2.0;
                    trace.extend(vec![ForwardRouting { step, time, branch, scale: 1, layers }]);
                }
            }
        }
        trace
    }

    /// The trace as anybody else reads it.
    pub(crate) fn exported() -> serde_json::Value {
        serde_json::from_str(&trace().to_json().unwrap()).unwrap()
    }

    /// The passes of a step in the exported trace.
    pub(crate) fn exported_passes(step: u32, branch: Branch) -> Vec<serde_json::Value> {
        let exported = exported();
        let guided = branch == Branch::Conditional;
        let all = exported["forwards"].as_array().unwrap();
        all.iter().filter(|f| f["step"] == step && f["guided"] == guided).cloned().collect()
    }
}
