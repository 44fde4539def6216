//! C over the steps of a run: mean number of experts per token by noise level.

use egui::{Role, Ui, WidgetInfo};
use egui_plot::{GridMark, HoverPosition, Line, LineStyle, PlotPoints, VLine};

use super::still_plot;
use crate::palette;
use crate::theme::Look;
use diffmoe::model::Objective;
use diffmoe::scheduler::{Branch, noise_level};
use diffmoe::trace::Trace;

/// C over noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What it counts.
    pub of: Of,
    /// For each step: the level of noise that it starts from (1 is noise alone), and C; NaN where the step has no such
    /// pass.
    pub points: Vec<[f64; 2]>,
}

/// What a curve counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// All layers and passes: the paper's C.
    All,
    /// All layers in the passes of one kind.
    Pass(Branch),
    /// One block, in the passes of one kind.
    Block(usize),
}

impl Of {
    fn name(self) -> String {
        match self {
            Self::All => "C, all passes".to_owned(),
            Self::Pass(Branch::Conditional) => "conditional".to_owned(),
            Self::Pass(Branch::Unconditional) => "unconditional".to_owned(),
            Self::Block(block) => format!("block {block}"),
        }
    }
}

/// First the curve of everything; after it one for each layer in the passes of `branch` where `each_layer` is
/// set, else one for each kind of pass where there are two. Empty for a model without experts.
pub fn curves(trace: &Trace, objective: Objective, branch: Branch, each_layer: bool) -> Vec<Curve> {
    let curve = |of, values: &[f32]| curve(trace, objective, of, values);
    let all = trace.capacity_by_step();
    if all.is_empty() {
        return Vec::new();
    }
    let mut curves = vec![curve(Of::All, &all)];
    if each_layer {
        let rows = trace.capacity_by_layer(Some(branch));
        curves.extend(trace.blocks().iter().zip(&rows).map(|(b, row)| curve(Of::Block(*b), row)));
    } else if trace.has(Branch::Unconditional) {
        for branch in [Branch::Conditional, Branch::Unconditional] {
            let rows = trace.capacity_by_layer(Some(branch));
            let mean =
                |step: usize| rows.iter().map(|row| row[step]).sum::<f32>() / rows.len() as f32;
            let means: Vec<f32> = (0..all.len()).map(mean).collect();
            curves.push(curve(Of::Pass(branch), &means));
        }
    }
    curves
}

fn curve(trace: &Trace, objective: Objective, of: Of, values: &[f32]) -> Curve {
    // The first pass of a step is at the time that the step starts from.
    let mut noise = vec![f64::NAN; values.len()];
    for forward in trace.forwards().iter().rev() {
        if let Some(noise) = noise.get_mut(forward.step as usize) {
            *noise = f64::from(noise_level(objective, forward.time));
        }
    }
    let points = noise.into_iter().zip(values).map(|(noise, c)| [noise, f64::from(*c)]);
    Curve { of, points: points.collect() }
}

impl Curve {
    /// The parts of the curve between steps that have no such pass. A step alone is a short line.
    fn parts(&self) -> Vec<Vec<[f64; 2]>> {
        let half = 0.3 / self.points.len().max(1) as f64;
        let parts = self.points.split(|point| point[1].is_nan()).filter(|part| !part.is_empty());
        let part = |part: &[[f64; 2]]| match part {
            [[noise, c]] => vec![[noise + half, *c], [noise - half, *c]],
            _ => part.to_vec(),
        };
        parts.map(part).collect()
    }
}

/// Shows the curves with a mark at `step`; returns the step that was pointed at with the button down.
pub(crate) fn show(ui: &mut Ui, curves: &[Curve], step: u32, height: f32) -> Option<u32> {
    let look = Look::of(ui);
    let mean = curves.first()?;
    let top = curves.iter().flat_map(|c| &c.points).map(|p| p[1]).fold(0.0, f64::max);
    let quarters =
        |_| (0..=4).map(|i| GridMark { value: f64::from(i) / 4.0, step_size: 0.25 }).collect();
    let plot = still_plot(look, "capacity over noise", "noise level", (top * 1.15).max(0.5))
        .height(height)
        .invert_x(true)
        .include_x(-0.02)
        .include_x(1.02)
        .x_grid_spacer(quarters)
        .label_formatter(|pos| match pos {
            HoverPosition::NearDataPoint { plot_name, position, .. } if !plot_name.is_empty() => {
                Some(format!("{plot_name}\nnoise {:.2}, C {:.2}", position.x, position.y))
            }
            _ => None,
        });
    let mark = mean.points.get(step as usize).map(|p| p[0]);
    let response = ui.scope(|ui| {
        ui.visuals_mut().extreme_bg_color = look.well;
        plot.show(ui, |plot| {
            if let Some(x) = mark {
                plot.vline(
                    VLine::new("", x)
                        .color(look.weak)
                        .width(1.0)
                        .style(LineStyle::dashed_loose())
                        .allow_hover(false),
                );
            }
            // The first one last, so that it lies on top.
            let parts = curves.iter().enumerate().rev();
            let parts =
                parts.flat_map(|(i, curve)| curve.parts().into_iter().map(move |p| (i, curve, p)));
            for (i, curve, points) in parts {
                let points: PlotPoints<'_> = points.into();
                let line = Line::new(curve.of.name(), points);
                plot.line(match curve.of {
                    Of::All => line.color(look.accent).width(2.4),
                    Of::Pass(Branch::Conditional) => line.color(look.weak).width(1.2),
                    Of::Pass(Branch::Unconditional) => {
                        line.color(look.weak).width(1.2).style(LineStyle::dotted_dense())
                    }
                    Of::Block(_) => line.color(palette::expert(i - 1)).width(1.4),
                });
            }
            if let Some(point) = mean.points.get(step as usize) {
                let dot = egui_plot::Points::new("", vec![*point])
                    .radius(4.0)
                    .color(look.accent)
                    .allow_hover(false);
                plot.points(dot);
            }
        })
    });
    let response = response.inner;
    response.response.widget_info(|| WidgetInfo::labeled(Role::Image, true, sentence(mean, step)));
    let pointer = response.response.interact_pointer_pos()?;
    let noise = response.transform.value_from_position(pointer).x;
    nearest(mean, noise)
}

/// The step whose noise level is nearest to one.
fn nearest(curve: &Curve, noise: f64) -> Option<u32> {
    let away = |step: &usize| (curve.points[*step][0] - noise).abs();
    (0..curve.points.len()).min_by(|a, b| away(a).total_cmp(&away(b))).map(|step| step as u32)
}

/// What the plot shows, for those who cannot see it.
fn sentence(mean: &Curve, step: u32) -> String {
    let range = |f: fn(f64, f64) -> f64, start| mean.points.iter().map(|p| p[1]).fold(start, f);
    let at = mean
        .points
        .get(step as usize)
        .map_or_else(String::new, |p| format!(", {:.2} at this step", p[1]));
    format!(
        "Plot of C over noise levels: {:.2} to {:.2}{at}",
        range(f64::min, f64::MAX).min(f64::from(u16::MAX)),
        range(f64::max, 0.0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::tests::{exported, exported_passes, trace};

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn the_first_curve_is_what_the_command_line_exports() {
        let curve = &curves(&trace(), Objective::Flow, Branch::Conditional, false)[0];
        let exported = exported();
        let by_step = exported["capacity_by_step"].as_array().unwrap();
        assert_eq!(curve.points.len(), by_step.len());
        for (point, c) in curve.points.iter().zip(by_step) {
            assert!(close(point[1], c.as_f64().unwrap()), "{point:?} {c}");
        }
        assert_eq!(
            curve.points.iter().map(|p| p[0]).collect::<Vec<_>>(),
            [1.0, 0.5],
            "noise at the steps' start"
        );
    }

    #[test]
    fn noise_of_a_ddpm_run_is_that_of_its_process() {
        let mut trace = Trace::new(&crate::views::tests::config(), Vec::new());
        for (step, time) in [(0, 999.0), (1, 500.0), (2, 0.0)] {
            let mut forward = crate::views::tests::trace().forwards()[0].clone();
            (forward.step, forward.time) = (step, time);
            trace.extend(vec![forward]);
        }
        let curve = &curves(&trace, Objective::Ddpm, Branch::Conditional, false)[0];
        // √(1 − ᾱ) with ᾱ of the official process.
        let want = [0.999_98, 0.960_31, 0.01];
        for (point, want) in curve.points.iter().zip(want) {
            assert!((point[0] - want).abs() < 1e-4, "{point:?} {want}");
        }
        assert_eq!([1.0, 0.9, 0.3].map(|noise| nearest(curve, noise)), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn each_layer_and_each_pass_agree_with_the_export() {
        for (i, branch) in [Branch::Conditional, Branch::Unconditional].into_iter().enumerate() {
            let layers = curves(&trace(), Objective::Flow, branch, true);
            assert_eq!(
                layers.iter().map(|c| c.of).collect::<Vec<_>>(),
                [Of::All, Of::Block(1), Of::Block(3)]
            );
            let passes = curves(&trace(), Objective::Flow, branch, false);
            assert_eq!(passes[i + 1].of, Of::Pass(branch));
            for step in 0..2 {
                let forwards = exported_passes(step as u32, branch);
                let of_layer = |layer: usize| {
                    let c =
                        forwards.iter().map(|f| f["layers"][layer]["capacity"].as_f64().unwrap());
                    c.sum::<f64>() / forwards.len() as f64
                };
                for layer in 0..2 {
                    assert!(
                        close(layers[layer + 1].points[step][1], of_layer(layer)),
                        "{branch:?} {step} {layer}"
                    );
                }
                let mean = f64::midpoint(of_layer(0), of_layer(1));
                assert!(close(passes[i + 1].points[step][1], mean), "{branch:?} {step}");
            }
        }
    }

    #[test]
    fn steps_without_a_pass_interrupt_a_curve() {
        let points = |c: &[f64]| c.iter().map(|c| [1.0, *c]).collect();
        let curve = |c: &[f64]| Curve { of: Of::All, points: points(c) };
        let none = f64::NAN;
        let parts = curve(&[none, 0.5, 0.25, none, none, 1.0]).parts();
        assert_eq!(parts[0], [[1.0, 0.5], [1.0, 0.25]]);
        assert_eq!((parts.len(), parts[1].len(), parts[1][0][1]), (2, 2, 1.0));
        assert_eq!((curve(&[]).parts().len(), curve(&[none]).parts().len()), (0, 0));
        // The unconditional pass of the second step alone.
        let whole = trace();
        let mut gapped = Trace::new(&crate::views::tests::config(), Vec::new());
        let is_left_out = |step, branch| step == 0 && branch == Branch::Unconditional;
        let left = whole.forwards().iter().filter(|f| !is_left_out(f.step, f.branch));
        gapped.extend(left.cloned().collect());
        let of = |trace: &Trace| curves(trace, Objective::Flow, Branch::Conditional, false);
        let (before, after) = (of(&whole), of(&gapped));
        assert_eq!(after[2].of, Of::Pass(Branch::Unconditional));
        assert_eq!((after[2].parts().len(), after[1].parts()), (1, before[1].parts()));
        assert!(close(after[2].parts()[0][0][1], before[2].points[1][1]), "no step falls to 0");
    }

    #[test]
    fn a_dense_model_has_no_curve() {
        let config = diffmoe::model::Config::from_json(
            r#"{"kind":"dense","t_kind":"flow","params":{"input_size":8,"num_classes":10,"patch_size":2,"depth":1,
            "hidden_size":64,"num_heads":4}}"#,
        );
        let mut trace = Trace::new(&config.unwrap(), Vec::new());
        assert_eq!(curves(&trace, Objective::Flow, Branch::Conditional, true), []);
        let branch = Branch::Conditional;
        trace.extend(vec![diffmoe::engine::ForwardRouting {
            step: 0,
            time: 0.0,
            branch,
            scale: 1,
            layers: Vec::new(),
        }]);
        assert_eq!(curves(&trace, Objective::Flow, Branch::Conditional, true), []);
    }
}
