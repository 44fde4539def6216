//! Labels or prompt, sampling and routing settings.

use egui::{DragValue, Slider, SliderClamping, TextEdit, Ui};

use crate::App;
use crate::icons::Icon;
use crate::picker::{self, Offer};
use crate::session::{Choice, Controls, MAX_COUNT, MAX_STEPS};
use crate::widgets::{caption, card, named_switch, remark, sign_button, slider, switch};
use diffmoe::model::{Config, Kind, LabelMix, RoutingRule};
use diffmoe::pipeline::{Sampling, Settings};
use diffmoe::scheduler::{GuidanceInterval, OptionValues, SchedulerKind};

const OWN_HINT: &str = "Use one threshold for all experts instead of the learned ones.";
const GAMMA_HINT: &str = "An expert takes a token if its predicted need exceeds this \
    threshold. Lower: more experts per token and more compute. Higher: less compute and, at some \
    point, worse images.";
const SHIFT_HINT: &str =
    "Added to the learned thresholds. Positive values save compute, negative values spend more.";
const STEPS_HINT: &str = "Number of denoising steps. More steps are more accurate and slower.";
const GUIDANCE_HINT: &str = "How strongly the labels or the prompt are followed. 1 switches \
    guidance off and halves the work; 2 to 4 is usual; high values look overdone.";
const INTERVAL_HINT: &str = "Guide only while t, from 0 (noise) to 1 (image), lies in this interval. \
    Outside it a step is half the work.";
const SPIN_HINT: &str = "Cycle spinning: averages the last predictions over this many shifts of the image, which \
    hides the borders of patches. Each shift costs another evaluation of the model in the last steps.";
const VARIATION_HINT: &str = "Mix the noise with that of another seed. A small share varies the \
    images; 1 gives those of the other seed.";
const MIX_HINT: &str = "Blend another label into those of all images: 0 shows the labels alone, 1 the other one alone.";
const COUNT_HINT: &str = "Images per run. They share every pass through the model.";

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    let Some(config) = app.session.model().map(|model| model.config.clone()) else { return };
    let controls = &mut app.session.controls;
    let dice = card(ui, "What to draw", |ui| {
        if let Some(text) = &config.text {
            words(ui, controls, &text.examples);
        }
        labels(ui, controls, &config);
        seed(ui, controls)
    });
    card(ui, "Sampling", |ui| {
        slider(ui, "Images", COUNT_HINT, &mut controls.count, 1..=MAX_COUNT, |s| s);
        slider(ui, "Steps", STEPS_HINT, &mut controls.sampling.steps, 1..=MAX_STEPS, |s| {
            s.logarithmic(true)
        });
        slider(ui, "Guidance", GUIDANCE_HINT, &mut controls.sampling.guidance, 1.0..=8.0, |s| {
            s.step_by(0.1).fixed_decimals(1).clamping(SliderClamping::Edits)
        });
        guidance_interval(ui, &mut controls.sampling.guidance_interval);
        cycle_spin(ui, &mut controls.sampling, &config);
        variation(ui, &mut controls.sampling);
        caption(ui, "Scheduler");
        scheduler(ui, &mut controls.sampling.scheduler, &config);
        scheduler_options(ui, &mut controls.sampling.scheduler, &config);
    });
    card(ui, "Routing", |ui| routing(ui, controls, &config));
    if dice {
        controls.sampling.seed = crate::platform::new_seed();
    }
}

/// The noise of another seed, for those who want variations.
fn variation(ui: &mut Ui, sampling: &mut Sampling) {
    const USUAL: f32 = 0.2;
    let mut varies = sampling.variation_strength > 0.0;
    if ui.checkbox(&mut varies, "Vary the seed").on_hover_text(VARIATION_HINT).changed() {
        sampling.variation_strength = if varies { USUAL } else { 0.0 };
        if varies && sampling.variation_seed == 0 {
            sampling.variation_seed = crate::platform::new_seed();
        }
    }
    if varies {
        let title = caption(ui, "Other seed").on_hover_text(VARIATION_HINT);
        ui.horizontal(|ui| {
            let height = ui.spacing().interact_size.y;
            let width = ui.available_width() - height - ui.spacing().item_spacing.x;
            let value = DragValue::new(&mut sampling.variation_seed).speed(1.0);
            let response = ui.label_inputs_by(title.id, |ui| ui.add_sized([width, height], value));
            response.labelled_by(title.id).on_hover_text(VARIATION_HINT);
            if sign_button(ui, Icon::Dice, "Another variation").clicked() {
                sampling.variation_seed = crate::platform::new_seed();
            }
        });
        let share = &mut sampling.variation_strength;
        slider(ui, "Share of its noise", VARIATION_HINT, share, 0.01..=1.0, |s| {
            s.step_by(0.01).fixed_decimals(2).clamping(egui::SliderClamping::Edits)
        });
    }
}

/// Averaging over shifts, where the model and its patches allow it.
fn cycle_spin(ui: &mut Ui, sampling: &mut Sampling, config: &Config) {
    let fits = |count: &&(u32, &str)| count.0 as usize <= config.patch_size;
    let counts = [(1, "Off"), (2, "2 shifts"), (4, "4 shifts")];
    let choices: Vec<_> =
        counts.iter().filter(fits).map(|&(count, title)| (count, title, SPIN_HINT)).collect();
    if !sampling.spins(config) || choices.len() == 1 {
        return;
    }
    caption(ui, "Average out patch borders").on_hover_text(SPIN_HINT);
    switch(ui, &mut sampling.cycle_spin.count, &choices);
}

/// Where guidance applies, for those who want less than the whole way.
fn guidance_interval(ui: &mut Ui, interval: &mut GuidanceInterval) {
    const GAP: f32 = 0.05;
    let mut is_part = !interval.is_whole();
    let name = "Limit guidance to an interval";
    if ui.checkbox(&mut is_part, name).on_hover_text(INTERVAL_HINT).changed() {
        *interval = if is_part {
            GuidanceInterval { low: 0.1, high: 0.7 }
        } else {
            GuidanceInterval::default()
        };
    }
    if is_part {
        let GuidanceInterval { low, high } = interval;
        slider(ui, "Guide from t", INTERVAL_HINT, low, 0.0..=1.0 - GAP, |s| {
            s.step_by(f64::from(GAP)).fixed_decimals(2).clamping(SliderClamping::Edits)
        });
        slider(ui, "Guide until t", INTERVAL_HINT, high, GAP..=1.0, |s| {
            s.step_by(f64::from(GAP)).fixed_decimals(2).clamping(SliderClamping::Edits)
        });
        if low >= high {
            *high = (*low + GAP).min(1.0);
        }
    }
}

/// The schedulers that suit the model, in rows of at most four.
fn scheduler(ui: &mut Ui, chosen: &mut SchedulerKind, config: &Config) {
    let now = *chosen;
    let choices: Vec<_> = SchedulerKind::for_objective(config.objective)
        .into_iter()
        // The chosen one may have other options than the default ones.
        .map(|kind| if kind.name() == now.name() { now } else { kind })
        .map(|kind| (kind, kind.info().title, kind.info().hint))
        .collect();
    let rows = choices.len().div_ceil(4).max(1);
    for row in choices.chunks(choices.len().div_ceil(rows).max(1)) {
        switch(ui, chosen, row);
    }
}

/// The options of the chosen scheduler, as its row of the table declares them.
fn scheduler_options(ui: &mut Ui, chosen: &mut SchedulerKind, config: &Config) {
    for option in chosen.info().options_for(config.objective) {
        let Some(before) = chosen.get(option.name) else { continue };
        let mut value = before;
        match option.values {
            OptionValues::Number { min, max, .. } => {
                let refine = |slider| number(slider, min, max);
                slider(ui, option.title, option.hint, &mut value, min..=max, refine);
            }
            OptionValues::Flag => {
                let mut is_on = value > 0.5;
                ui.checkbox(&mut is_on, option.title).on_hover_text(option.hint);
                value = f32::from(u8::from(is_on));
            }
            OptionValues::Names(names) => {
                caption(ui, option.title).on_hover_text(option.hint);
                let choice = |(i, name): (usize, &&'static str)| (i as f32, *name, option.hint);
                let choices: Vec<_> = names.iter().enumerate().map(choice).collect();
                named_switch(ui, option.title, &mut value, &choices);
            }
        }
        if value.to_bits() != before.to_bits()
            && let Ok(changed) = chosen.with(option.name, value)
        {
            *chosen = changed;
        }
    }
}

/// A slider over `min..=max`: over powers of ten where there are many of them, as for tolerances.
fn number(slider: Slider<'_>, min: f32, max: f32) -> Slider<'_> {
    let slider = slider.clamping(SliderClamping::Edits);
    if min > 0.0 && max / min > 1e3 {
        let scientific = |value: f64, _| format!("{value:.1e}").replace(".0e", "e");
        slider.logarithmic(true).smallest_positive(f64::from(min)).custom_formatter(scientific)
    } else {
        slider.fixed_decimals(2)
    }
}

/// What to draw in words, for a model that reads them.
fn words(ui: &mut Ui, controls: &mut Controls, examples: &[String]) {
    let field = |ui: &mut Ui, title: &str, text: &mut String, hint: &str| {
        let caption = caption(ui, title);
        let edit = TextEdit::singleline(text).hint_text(hint).desired_width(f32::INFINITY);
        ui.add(edit).labelled_by(caption.id);
    };
    let example = examples.first().map_or("what to draw", String::as_str);
    field(ui, "Prompt", &mut controls.prompt, example);
    if controls.prompt.is_empty() && !examples.is_empty() {
        caption(ui, "Without a prompt, images take the model's examples in turn.");
    }
    let negative = &mut controls.sampling.negative;
    field(ui, "Negative prompt", negative, "what the image should not show");
}

fn labels(ui: &mut Ui, controls: &mut Controls, config: &Config) {
    let tables = config.labels.len().max(1);
    let best = config.defaults.showcase.is_some();
    ui.horizontal_top(|ui| {
        let gaps = ui.spacing().item_spacing.x * (tables - 1) as f32;
        let width = (ui.available_width() - gaps) / tables as f32;
        for (table, choice) in config.labels.iter().zip(&mut controls.choices) {
            ui.vertical(|ui| {
                ui.set_width(width);
                caption(ui, picker::capital(&table.name));
                picker::show(ui, table, Offer::Draw { best }, choice, width);
            });
        }
    });
    mix(ui, controls, config);
}

/// Labels that are blended into those above, for those who want something between two.
fn mix(ui: &mut Ui, controls: &mut Controls, config: &Config) {
    if config.labels.is_empty() {
        return;
    }
    let Controls { mix, choices, sampling, .. } = controls;
    mix.resize(config.labels.len(), None);
    let was_plain = mix.iter().all(Option::is_none);
    let gaps = ui.spacing().item_spacing.x * (config.labels.len() - 1) as f32;
    let width = (ui.available_width() - gaps) / config.labels.len() as f32;
    ui.horizontal_top(|ui| {
        for ((table, other), choice) in config.labels.iter().zip(&mut *mix).zip(choices) {
            ui.vertical(|ui| {
                ui.set_width(width);
                let mut is_blended = other.is_some();
                let name = format!("Blend {}", picker::plural(&table.name));
                if ui.checkbox(&mut is_blended, name).on_hover_text(MIX_HINT).changed() {
                    // Another one than that above, so that something happens.
                    let first = u32::from(*choice == Choice::Row(0)).min(table.null);
                    *other = is_blended.then_some(first);
                }
                if let Some(row) = other {
                    let mut chosen =
                        if *row == table.null { Choice::Any } else { Choice::Row(*row) };
                    picker::show(ui, table, Offer::Blend, &mut chosen, width);
                    *row = if let Choice::Row(row) = chosen { row } else { table.null };
                }
            });
        }
    });
    if mix.iter().all(Option::is_none) {
        // As before anything was blended, so that links have no word of it.
        mix.clear();
        sampling.mix_strength = 0.0;
        return;
    }
    if was_plain {
        sampling.mix_strength = LabelMix::USUAL;
    }
    let share = &mut sampling.mix_strength;
    slider(ui, "Share of the blended label", MIX_HINT, share, 0.0..=1.0, |s| {
        s.step_by(0.01).fixed_decimals(2).clamping(SliderClamping::Edits)
    });
}

/// Returns whether the dice was thrown.
fn seed(ui: &mut Ui, controls: &mut Controls) -> bool {
    let hint = "Seed of the initial noise. The same seed and settings give the same images.";
    let title = caption(ui, "Seed").on_hover_text(hint);
    ui.horizontal(|ui| {
        let height = ui.spacing().interact_size.y;
        let width = ui.available_width() - height - ui.spacing().item_spacing.x;
        let value = DragValue::new(&mut controls.sampling.seed).speed(1.0);
        let response = ui.label_inputs_by(title.id, |ui| ui.add_sized([width, height], value));
        response.on_hover_text(hint);
        sign_button(ui, Icon::Dice, "Another seed").clicked()
    })
    .inner
}

fn routing(ui: &mut Ui, controls: &mut Controls, config: &Config) {
    if !Settings::routing_applies(config) {
        remark(
            ui,
            match config.kind {
                Kind::Dense => {
                    "This model is dense: every token goes through the same network, so there \
                        is no routing."
                }
                _ => {
                    "The routing of this model has no settings: the number of tokens or \
                    experts is fixed."
                }
            },
        );
        return;
    }
    let routing = &mut controls.sampling.routing;
    let rules: Vec<_> =
        RoutingRule::ALL.iter().map(|rule| (*rule, rule.title(), rule.hint())).collect();
    switch(ui, &mut routing.rule, &rules);
    let mut own = routing.gamma.is_some();
    if ui.checkbox(&mut own, "Override threshold").on_hover_text(OWN_HINT).changed() {
        routing.gamma = own.then_some(0.5);
    }
    match &mut routing.gamma {
        Some(gamma) => {
            slider(ui, "Threshold γ", GAMMA_HINT, gamma, 0.0..=1.0, |s| s.fixed_decimals(2))
        }
        None => slider(ui, "Threshold shift", SHIFT_HINT, &mut routing.shift, -0.5..=0.5, |s| {
            s.fixed_decimals(2).clamping(SliderClamping::Edits)
        }),
    };
}
