//! What the engine promises about submissions, slices, traces, memory and failures.

use std::sync::Arc;

use diffmoe::engine::{
    Engine, EngineError, Footprint, GpuEngine, GpuModel, Inspect, RunConfig, Scope, Stage,
};
use diffmoe::gpu::{Gpu, GpuOptions, Profile};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Routing, RoutingRule};
use diffmoe::scheduler::Latent;

use crate::case::{COND, Case, FORMS, euler, forward, heun, largest_difference, sample};
use crate::device::{device, turn};

#[test]
fn slices_of_one_and_of_everything_give_the_same_bits_and_the_same_routing() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let mut engine = case.engine(&device(Profile::Software));
    let steps: Vec<_> = (0..2).map(|i| heun(i, 2, 1.5)).collect();
    let whole = sample(&mut engine, &case.run(), &steps, usize::MAX);
    for budget in [1, 7] {
        let slices = sample(&mut engine, &case.run(), &steps, budget);
        assert_eq!(whole, slices, "slices of {budget}");
    }
}

#[test]
fn timing_the_stages_changes_no_bit_and_names_every_stage() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let gpu = device(Profile::Software);
    assert!(gpu.has_timestamps(), "this test needs an adapter with a clock, such as lavapipe");
    let mut engine = case.engine(&gpu);
    let steps: Vec<_> = (0..2).map(|i| heun(i, 2, 1.5)).collect();
    let plain = sample(&mut engine, &case.run(), &steps, 50);
    assert!(plain.iter().all(|snapshot| snapshot.stage_ms.is_empty()), "nobody asked");
    engine.set_profiling(true);
    for budget in [7, usize::MAX] {
        let timed = sample(&mut engine, &case.run(), &steps, budget);
        for (plain, timed) in plain.iter().zip(&timed) {
            assert_eq!((&plain.latent, &plain.routing), (&timed.latent, &timed.routing));
            let stages: Vec<_> = timed.stage_ms.iter().map(|(stage, _)| *stage).collect();
            // This model has no detail head.
            let present = Stage::ALL.into_iter().filter(|&stage| stage != Stage::Detail);
            assert_eq!(stages, present.collect::<Vec<_>>());
            assert!(timed.stage_ms.iter().all(|(_, ms)| *ms > 0.0), "{:?}", timed.stage_ms);
        }
    }
    assert!(engine.slice_time().is_some_and(|slice| slice.ms > 0.0));
    engine.set_profiling(false);
    let again = sample(&mut engine, &case.run(), &steps, 50);
    assert_eq!(plain, again);
}

#[test]
fn what_does_not_fit_is_refused_and_spoils_nothing() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let gpu = Arc::new(Gpu::headless().unwrap());
    let mut engine = case.engine(&gpu);
    let size = gpu.device.limits().max_buffer_size + 4;
    let refused = pollster::block_on(gpu.error_scope(async {
        let usage = wgpu::BufferUsages::STORAGE;
        let label = Some("too large");
        gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label,
            size,
            usage,
            mapped_at_creation: false,
        })
    }));
    assert!(refused.is_err());
    assert_eq!(gpu.failure(), None);
    sample(&mut engine, &case.run(), &[euler(0, 1, 1.0)], 10);
    assert_eq!(pollster::block_on(gpu.error_scope(async { 7 })), Ok(7));
}

#[test]
fn the_trace_holds_what_the_taps_show() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let mut engine = case.engine(&device(Profile::Software));
    let batch = engine.batch();
    let taps = engine.forward_with_taps(&case.run(), &vec![0.25; batch]).unwrap();
    let ops = [forward(Latent::Sample, 0, 0.25, COND)];
    let snapshot = sample(&mut engine, &case.run(), &[ops.to_vec()], usize::MAX).remove(0);
    let [pass] = &snapshot.routing[..] else { panic!("one forward pass") };
    assert_eq!((pass.step, pass.time, pass.branch), (0, 0.25, COND));
    assert_eq!(pass.layers.iter().map(|l| l.block).collect::<Vec<_>>(), [1, 3]);
    for layer in &pass.layers {
        let name = format!("blocks.{}.selected", layer.block);
        let (_, shape, selected) = taps.iter().find(|tap| tap.0 == name).unwrap();
        let bit = |(e, &taken): (usize, &f32)| (taken as u64) << e;
        let masks: Vec<u64> =
            selected.chunks(shape[1]).map(|s| s.iter().enumerate().map(bit).sum()).collect();
        assert_eq!(layer.masks, masks, "{name}");
    }
}

#[test]
fn a_step_is_one_submission_and_blocks_are_few_dispatches() {
    let _turn = turn();
    for name in ["dense_flow", "diffmoe_flow", "diffmoe_swiglu_shared"] {
        let case = Case::open(name);
        let config = case.checkpoint.config().clone();
        let mut engine = case.engine(&device(Profile::Gpu));
        let dispatches = engine.dispatches(&heun(0, 2, 1.5)).unwrap();
        for block in 0..config.depth {
            // Two forward passes in a guided Heun step, each over both branches.
            let is_here = |(scope, _): &&(Scope, &str)| scope.block == Some(block);
            let count = dispatches.iter().filter(is_here).count() / 2;
            let limit = if config.is_moe(block) { 14 } else { 10 };
            println!("{name}, block {block}: {count} dispatches");
            assert!((1..=limit).contains(&count), "{name}, block {block}: {count} dispatches");
        }
        println!("{name}: {} dispatches in a guided Heun step", dispatches.len());
        let steps: Vec<_> = (0..3).map(|i| heun(i, 3, 1.5)).collect();
        sample(&mut engine, &case.run(), &steps, usize::MAX);
        assert_eq!(engine.submissions(), 3, "one submission for each step");
    }
}

/// Timings by stage rest on it.
#[test]
fn every_dispatch_knows_its_block_and_stage() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let config = case.checkpoint.config().clone();
    let mut engine = case.engine(&device(Profile::Software));
    let dispatches = engine.dispatches(&euler(0, 2, 1.5)).unwrap();
    let stage_of = |shader: &str| match shader {
        "pass_inputs" => Some(Stage::Condition),
        "attention_software" => Some(Stage::Attention),
        "route_score" | "route_select" => Some(Stage::Router),
        "expert_linear_software" | "combine_experts" => Some(Stage::Experts),
        "combine_latents" => Some(Stage::Solver),
        // Linear layers and norms belong to several stages.
        _ => None,
    };
    for (scope, shader) in &dispatches {
        if let Some(stage) = stage_of(shader) {
            assert_eq!(scope.stage, stage, "{scope}: {shader}");
        }
        let is_block = [Stage::Attention, Stage::Router, Stage::Experts].contains(&scope.stage);
        assert_eq!(scope.block.is_some(), is_block, "{scope}: {shader}");
    }
    // Two passes, and the step.
    let mut want = Vec::new();
    for _ in 0..2 {
        want.push(Scope::from(Stage::Condition));
        for block in 0..config.depth {
            want.push(Scope::of_block(block, Stage::Attention));
            if config.is_moe(block) {
                want.push(Scope::of_block(block, Stage::Router));
                want.push(Scope::of_block(block, Stage::Experts));
            } else {
                want.push(Scope::of_block(block, Stage::Experts));
            }
        }
        want.push(Scope::from(Stage::Final));
    }
    want.push(Scope::from(Stage::Solver));
    let mut found: Vec<_> = dispatches.into_iter().map(|(scope, _)| scope).collect();
    found.dedup();
    assert_eq!(found, want);
}

#[test]
fn the_token_rule_does_not_depend_on_batch_mates() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let gpu = device(Profile::Software);
    let model = case.model(&gpu);
    let all = RunConfig { routing: Routing::default(), ..case.run() };
    let batch = all.labels[0].len();
    let alone = RunConfig {
        latent: all.latent[..all.latent.len() / batch].to_vec(),
        labels: vec![all.labels[0][..1].to_vec()],
        routing: all.routing,
        ..RunConfig::default()
    };
    let steps: Vec<_> = (0..2).map(|i| euler(i, 2, 1.5)).collect();
    let mut together = GpuEngine::new(model.clone(), batch).unwrap();
    let mut single = GpuEngine::new(model, 1).unwrap();
    let together = sample(&mut together, &all, &steps, usize::MAX).remove(1).latent;
    let single = sample(&mut single, &alone, &steps, usize::MAX).remove(1).latent;
    let difference = largest_difference(&together[..single.len()], &single);
    // The kernels sum each row in the same order whatever the batch.
    assert!(difference <= 1e-6, "{difference}");
}

#[test]
fn raising_thresholds_sends_fewer_tokens_to_experts() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let mut engine = case.engine(&device(Profile::Software));
    let steps = [euler(0, 1, 1.0)];
    let mut taken = |routing: Routing| -> u32 {
        let run = RunConfig { routing, ..case.run() };
        let snapshot = sample(&mut engine, &run, &steps, usize::MAX).remove(0);
        let layers = snapshot.routing.iter().flat_map(|pass| &pass.layers);
        layers.flat_map(|layer| &layer.masks).map(|mask| mask.count_ones()).sum()
    };
    for rule in [RoutingRule::Pool, RoutingRule::Token] {
        let all = taken(Routing { rule, gamma: Some(0.0), ..Routing::default() });
        let own = taken(Routing { rule, ..Routing::default() });
        let fewer = taken(Routing { rule, shift: 0.05, ..Routing::default() });
        let none = taken(Routing { rule, gamma: Some(1.0), ..Routing::default() });
        assert!(all > own && own > fewer && fewer > 0 && none == 0, "{all} {own} {fewer} {none}");
    }
}

#[test]
fn bindings_that_hold_a_fraction_of_a_layer_change_nothing_but_the_number_of_dispatches() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let compute = |binding_limit| {
        let options = GpuOptions {
            profile: Some(Profile::Software),
            binding_limit,
            poison: true,
            panic_on_error: true,
            ..GpuOptions::default()
        };
        let mut engine = case.engine(&Arc::new(Gpu::headless_with(options).unwrap()));
        let steps = [euler(0, 1, 1.5)];
        let dispatches = engine.dispatches(&steps[0]).unwrap().len();
        (dispatches, sample(&mut engine, &case.run(), &steps, usize::MAX).remove(0))
    };
    let (few, want) = compute(None);
    let (many, got) = compute(Some(80_000));
    assert!(many > few, "{many} dispatches, {few} without a limit");
    assert_eq!(got.routing, want.routing);
    let difference = largest_difference(&got.latent, &want.latent);
    // Parts of the experts' rows are added one after the other.
    assert!(difference <= 1e-5, "{difference}");
}

#[test]
fn the_footprint_foresees_what_the_weights_take() {
    use WeightPrecision::{F16, F32, Int4, Int8};
    let _turn = turn();
    let gpu = device(Profile::Software);
    for name in FORMS {
        let case = Case::open(name);
        let config = case.checkpoint.config();
        for precision in [F16, F32, Int8, Int4] {
            let foreseen =
                Footprint::on_gpu(config, 1, precision, gpu.profile, gpu.binding_limit).weights;
            let before = gpu.allocated_bytes();
            let model = GpuModel::load(gpu.clone(), &case.checkpoint, precision).unwrap();
            let taken = gpu.allocated_bytes() - before;
            assert_eq!((foreseen, model.weight_bytes()), (taken, taken), "{name}, {precision}");
        }
    }
}

#[test]
fn f16_weights_stay_close() {
    let _turn = turn();
    let case = Case::open("dense_flow");
    let gpu = device(Profile::Software);
    let batch = case.labels()[0].len();
    let half = GpuModel::load(gpu, &case.checkpoint, WeightPrecision::F16).unwrap();
    let mut engine = GpuEngine::new(Arc::new(half), batch).unwrap();
    let taps = engine.forward_with_taps(&case.run(), &case.tensor("t")).unwrap();
    let (_, _, out) = taps.last().unwrap();
    let want = case.tensor("out");
    let size = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let difference = largest_difference(out, &want);
    println!("f16: off by {difference:.2e} where values reach {size:.2}");
    // Weights are rounded by 2⁻¹¹ relative; some dozens of layers of random ones add up.
    assert!(difference > 0.0 && difference <= 0.01 * size, "{difference} of {size}");
}

#[test]
fn a_lost_device_is_an_error_and_not_a_panic() {
    let _turn = turn();
    let case = Case::open("dense_flow");
    let gpu = Arc::new(Gpu::headless().unwrap());
    let mut engine = case.engine(&gpu);
    engine.start(&case.run()).unwrap();
    engine.begin_step(&euler(0, 2, 1.0)).unwrap();
    engine.advance(3).unwrap();
    gpu.device.destroy();
    let outcome = (0..8).try_for_each(|_| engine.advance(1).map(drop).and_then(|()| engine.wait()));
    assert!(matches!(outcome, Err(EngineError::DeviceLost(_))), "{outcome:?}");
    assert!(engine.take_snapshot().is_none());
    assert!(matches!(engine.advance(1), Err(EngineError::DeviceLost(_))), "it stays lost");
}

#[test]
fn what_a_binding_cannot_hold_is_refused_with_a_way_out() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let limited = |limit| {
        let options = GpuOptions { binding_limit: Some(limit), ..GpuOptions::default() };
        Arc::new(Gpu::headless_with(options).unwrap())
    };
    let refused = |result: Result<(), EngineError>, advice: &str| match result {
        Err(EngineError::TooLarge(text)) => assert!(text.contains(advice), "{text}"),
        other => panic!("{other:?}"),
    };
    let load = |limit| GpuModel::load(limited(limit), &case.checkpoint, WeightPrecision::F16);
    refused(load(10_000).map(drop), "allows 10000 per binding");
    let model = Arc::new(load(80_000).unwrap());
    refused(GpuEngine::new(model, 64).map(drop), "reduce the batch");
}
