//! Tokens per expert in one layer at one step.

use egui::{Role, Ui, WidgetInfo};
use egui_plot::{Bar, BarChart, GridMark, HLine, LineStyle};

use super::still_plot;
use crate::palette;
use crate::theme::Look;
use diffmoe::trace::{At, Trace};

/// How many tokens each expert took.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// The transformer block.
    pub block: usize,
    /// Tokens of each expert.
    pub tokens: Vec<u32>,
    /// What each would have if all had the same.
    pub even: f32,
    /// Tokens to choose from.
    pub pool: usize,
    /// C of this layer in this pass.
    pub capacity: f32,
}

/// The load at one place of the trace, of all images or of one; `None` where the run has not been yet.
pub fn load(trace: &Trace, at: At, image: Option<usize>) -> Option<Load> {
    let routing = trace.layer(at)?;
    let (tokens, pool) = match image {
        Some(image) => (trace.image_counts(at, image)?, trace.tokens()),
        None => (trace.counts(at)?, routing.masks.len()),
    };
    let pool = pool / trace.patches_of_token(at.step);
    if tokens.is_empty() || pool == 0 {
        return None;
    }
    let total = tokens.iter().sum::<u32>() as f32;
    let (even, capacity) = (total / tokens.len() as f32, total / pool as f32);
    Some(Load { block: routing.block, even, pool, capacity, tokens })
}

/// Shows the load as bars; returns the expert whose bar was clicked.
pub(crate) fn show(ui: &mut Ui, load: &Load, chosen: Option<usize>, height: f32) -> Option<usize> {
    let look = Look::of(ui);
    let experts = load.tokens.len();
    let most = load.tokens.iter().copied().max().unwrap_or(0) as f32;
    let bars = load.tokens.iter().enumerate().map(|(expert, &tokens)| {
        let faded = chosen.is_some_and(|chosen| chosen != expert);
        let colour = palette::expert(expert);
        Bar::new(expert as f64, f64::from(tokens))
            .width(0.72)
            .name(format!("expert {expert}"))
            .fill(if faded { colour.gamma_multiply(0.35) } else { colour })
            .stroke(egui::Stroke::NONE)
    });
    let pool = load.pool as f64;
    let chart =
        BarChart::new("tokens", bars.collect()).element_formatter(Box::new(move |bar, _| {
            format!(
                "expert {}\n{:.0} tokens, {:.0} % of the pool",
                bar.argument,
                bar.value,
                100.0 * bar.value / pool
            )
        }));
    let stride = experts.div_ceil(16);
    let top = f64::from(most * 1.12).max(1.0);
    let response = still_plot(look, "tokens per expert", "expert", top)
        .height(height)
        .include_x(-0.6)
        .include_x(experts as f64 - 0.4)
        .show_grid([false, true])
        .x_grid_spacer(move |_| {
            (0..experts)
                .step_by(stride)
                .map(|e| GridMark { value: e as f64, step_size: 1.0 })
                .collect()
        })
        .label_formatter(|_| None)
        .show(ui, |plot| {
            plot.bar_chart(chart);
            let even = HLine::new("", f64::from(load.even)).color(look.text).width(1.0);
            plot.hline(even.style(LineStyle::dashed_dense()).allow_hover(false));
        });
    response.response.widget_info(|| WidgetInfo::labeled(Role::Image, true, sentence(load)));
    if !response.response.clicked() {
        return None;
    }
    let x = response.transform.value_from_position(response.response.interact_pointer_pos()?).x;
    let expert = x.round();
    (expert >= 0.0 && expert < experts as f64).then_some(expert as usize)
}

/// What the bars show, for those who cannot see them.
fn sentence(load: &Load) -> String {
    let list: Vec<_> = load.tokens.iter().map(ToString::to_string).collect();
    format!(
        "Tokens per expert in block {}: {}; an even share is {:.0}",
        load.block,
        list.join(", "),
        load.even
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::tests::{exported_passes, trace};
    use diffmoe::scheduler::Branch;

    #[test]
    fn loads_agree_with_the_export() {
        let trace = trace();
        for branch in [Branch::Conditional, Branch::Unconditional] {
            for (step, layer) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let at = At { step, layer, branch };
                let load = load(&trace, at, None).unwrap();
                // The first pass of the step.
                let exported = &exported_passes(step, branch)[0]["layers"][layer];
                assert_eq!(exported["block"], load.block);
                assert_eq!(exported["counts"], serde_json::json!(load.tokens));
                assert!(
                    (f64::from(load.capacity) - exported["capacity"].as_f64().unwrap()).abs()
                        < 1e-6
                );
                assert!((load.even * 3.0 - load.tokens.iter().sum::<u32>() as f32).abs() < 1e-4);
                let alone = |image| super::load(&trace, at, Some(image)).unwrap();
                let (a, b) = (alone(0), alone(1));
                assert_eq!((a.pool, b.pool, load.pool), (4, 4, 8));
                for expert in 0..3 {
                    assert_eq!(a.tokens[expert] + b.tokens[expert], load.tokens[expert]);
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_yet_is_nothing() {
        let at = At { step: 0, layer: 0, branch: Branch::Conditional };
        assert_eq!(load(&trace(), At { step: 2, ..at }, None), None);
        assert_eq!(load(&trace(), At { layer: 2, ..at }, None), None);
        assert_eq!(load(&trace(), at, Some(2)), None);
    }
}
