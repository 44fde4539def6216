//! The first-order answer to "what if", against runs that were drawn with those thresholds.

use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Routing, Shifts};
use diffmoe::pipeline::{Backend, Pipeline, Run, Settings};
use diffmoe::scheduler::Branch;
use diffmoe::trace::Trace;

use super::lens::{Lens, Pass, Target, WhatIf};
use super::tally::Tally;

/// Draws two emoji in four steps.
fn draw(pipeline: &Pipeline, log_odds: f32, shifts: Shifts) -> Trace {
    let checkpoint = diffmoe_models::open_any("emoji").expect("a shipped model");
    let config = checkpoint.config();
    let settings = Settings::builder(config)
        .images(2)
        .seed(7)
        .steps(4)
        .scheduler("euler".parse().expect("a scheduler"))
        .routing(Routing { log_odds, ..Routing::default() })
        .shifts(shifts)
        .record_scores(true)
        .build()
        .expect("good settings");
    let engine = pipeline.engine(2).expect("an engine");
    let run = Run::start(engine, config, settings, 0).expect("a run");
    run.finish(|_| {}).expect("all steps").trace
}

fn capacity(trace: &Trace, what_if: WhatIf) -> f32 {
    let pass = Pass { branch: Branch::Conditional, evaluation: 0 };
    Tally::of(&Lens { trace, pass, what_if }).mean_capacity().expect("experts")
}

#[test]
fn first_order_is_within_a_hundredth_of_the_redraw() {
    let checkpoint = diffmoe_models::open_any("emoji").expect("a shipped model");
    let pipeline = Pipeline::open(&checkpoint, Backend::Cpu, WeightPrecision::F32).expect("room");
    let run = draw(&pipeline, 0.0, Shifts::default());
    let as_it_was = capacity(&run, WhatIf::default());
    let blocks = run.blocks();
    let last = blocks.len() - 1;
    let cases = [
        (Target::All, -2.0),
        (Target::All, -1.0),
        (Target::All, 1.0),
        (Target::All, 2.0),
        (Target::Layer(last), -2.0),
        (Target::Layer(last), 2.0),
        (Target::Expert(0, 3), -2.0),
        (Target::Expert(0, 3), 2.0),
    ];
    for (of, odds) in cases {
        let mut shifts = Shifts::default();
        let mut all = 0.0;
        match of {
            Target::All => all = odds,
            Target::Layer(layer) => shifts.add(blocks[layer], None, odds),
            Target::Expert(layer, expert) => shifts.add(blocks[layer], Some(expert), odds),
        }
        let first_order = capacity(&run, WhatIf { odds, of });
        let redrawn = capacity(&draw(&pipeline, all, shifts), WhatIf::default());
        println!(
            "{of:?} {odds:+}: {as_it_was:.4}, first order {first_order:.4}, drawn {redrawn:.4}"
        );
        assert!((first_order - redrawn).abs() < 0.01, "{of:?} {odds}: {first_order} {redrawn}");
        let moved = if odds > 0.0 { as_it_was - redrawn } else { redrawn - as_it_was };
        assert!(moved > 0.0, "{of:?} {odds}: the threshold had no effect");
    }
}
