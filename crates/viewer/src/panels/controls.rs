//! What to draw, and how.

use egui::{DragValue, TextEdit, Ui};

use crate::App;
use crate::icons::Icon;
use crate::picker;
use crate::session::{self, Controls, MAX_COUNT, MAX_STEPS};
use crate::widgets::{caption, card, remark, sign_button, slider, switch};
use diffmoe::model::{Config, Kind, RoutingRule};
use diffmoe::pipeline::Settings;
use diffmoe::scheduler::Solver;

const TOKEN_HINT: &str = "Each token for itself: an expert takes the tokens for which its predicted need exceeds the \
    threshold. A picture does not depend on the others of its batch.";
const POOL_HINT: &str = "The paper's rule: the predictor says how many tokens of the whole batch an expert takes, the \
    gate says which. Pictures of a batch compete.";
const OWN_HINT: &str = "Use one threshold for every expert instead of those learned in training.";
const GAMMA_HINT: &str = "A token goes to an expert when its predicted need exceeds this. Lower: more experts a token, \
    more compute. Higher: less compute, and at some point worse pictures.";
const SHIFT_HINT: &str =
    "Added to the thresholds learned in training. Positive saves compute, negative spends more.";
const STEPS_HINT: &str = "In how many steps noise becomes a picture. More is finer and slower.";
const GUIDANCE_HINT: &str = "How much the labels are followed: 1 is not more than the model does by itself, which halves \
    the work; 2 to 4 is usual; too much looks overdone.";
const COUNT_HINT: &str = "Pictures in one run. They share every pass through the model.";

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    let Some(config) = app.session.model().map(|model| model.config.clone()) else { return };
    let controls = &mut app.session.controls;
    let dice = card(ui, "What to draw", |ui| {
        if config.text.is_some() {
            words(ui, controls);
        }
        labels(ui, controls, &config);
        seed(ui, controls)
    });
    card(ui, "How", |ui| {
        slider(ui, "Pictures", COUNT_HINT, &mut controls.count, 1..=MAX_COUNT, |s| s);
        slider(ui, "Steps", STEPS_HINT, &mut controls.steps, 1..=MAX_STEPS, |s| {
            s.logarithmic(true)
        });
        slider(ui, "Guidance", GUIDANCE_HINT, &mut controls.guidance, 1.0..=8.0, |s| {
            s.step_by(0.1).fixed_decimals(1).clamping(egui::SliderClamping::Edits)
        });
        caption(ui, "Solver");
        let choices: Vec<_> = session::solvers(&config).into_iter().map(solver).collect();
        switch(ui, &mut controls.solver, &choices);
    });
    card(ui, "Routing", |ui| routing(ui, controls, &config));
    if dice {
        controls.seed = crate::platform::new_seed();
    }
}

/// A solver with its name and what it does.
fn solver(solver: Solver) -> (Solver, &'static str, &'static str) {
    let (name, hint) = match solver {
        Solver::Euler => ("Euler", "One evaluation a step."),
        Solver::Heun => ("Heun", "Two evaluations a step: twice the work, more exact."),
        Solver::Dopri5(_) => (
            "Adaptive",
            "Dormand and Prince's pair chooses its steps by the error that it estimates.",
        ),
        Solver::Ddpm(_) => ("DDPM", "Ancestral sampling: fresh noise at every step."),
        Solver::Ddim(_) => ("DDIM", "No fresh noise: fewer steps suffice."),
    };
    (solver, name, hint)
}

/// What to draw in words, for a model that reads them.
fn words(ui: &mut Ui, controls: &mut Controls) {
    for (title, text, example) in [
        ("Prompt", &mut controls.prompt, "a robot, fluent 3d"),
        ("Without", &mut controls.negative, "what the picture should not show"),
    ] {
        let caption = caption(ui, title);
        let edit = TextEdit::singleline(text).hint_text(example).desired_width(f32::INFINITY);
        ui.add(edit).labelled_by(caption.id);
    }
}

fn labels(ui: &mut Ui, controls: &mut Controls, config: &Config) {
    let tables = config.labels.len().max(1);
    ui.horizontal_top(|ui| {
        let gaps = ui.spacing().item_spacing.x * (tables - 1) as f32;
        let width = (ui.available_width() - gaps) / tables as f32;
        for (table, choice) in config.labels.iter().zip(&mut controls.choices) {
            ui.vertical(|ui| {
                ui.set_width(width);
                caption(ui, picker::capital(&table.name));
                picker::show(ui, table, choice, width);
            });
        }
    });
}

/// Returns whether the dice was thrown.
fn seed(ui: &mut Ui, controls: &mut Controls) -> bool {
    let hint =
        "The noise that pictures begin with. The same seed and settings give the same pictures.";
    let title = caption(ui, "Seed").on_hover_text(hint);
    ui.horizontal(|ui| {
        let height = ui.spacing().interact_size.y;
        let width = ui.available_width() - height - ui.spacing().item_spacing.x;
        let value = DragValue::new(&mut controls.seed).speed(1.0);
        let response = ui.label_inputs_by(title.id, |ui| ui.add_sized([width, height], value));
        response.labelled_by(title.id).on_hover_text(hint);
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
                    "This model is dense: every token goes through the same network, there is nothing to route."
                }
                _ => "The routing of this model is fixed: its experts take a set number of tokens.",
            },
        );
        return;
    }
    let routing = &mut controls.routing;
    let rules = [
        (RoutingRule::Token, "Each token", TOKEN_HINT),
        (RoutingRule::Pool, "Whole pool", POOL_HINT),
    ];
    switch(ui, &mut routing.rule, &rules);
    let mut own = routing.gamma.is_some();
    if ui.checkbox(&mut own, "Own threshold").on_hover_text(OWN_HINT).changed() {
        routing.gamma = own.then_some(0.5);
    }
    match &mut routing.gamma {
        Some(gamma) => {
            slider(ui, "Threshold γ", GAMMA_HINT, gamma, 0.0..=1.0, |s| s.fixed_decimals(2))
        }
        None => slider(ui, "Threshold shift", SHIFT_HINT, &mut routing.shift, -0.5..=0.5, |s| {
            s.fixed_decimals(2).clamping(egui::SliderClamping::Edits)
        }),
    };
}
