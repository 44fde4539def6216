//! Both branches of guidance in one pass: the bits of two passes, half the dispatches, and memory to the byte.

use std::sync::Arc;

use diffmoe::engine::{
    Branches, Footprint, GpuEngine, GpuModel, RunConfig, Snapshot, WeightChoice,
};
use diffmoe::gpu::Profile;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Routing, RoutingRule};
use diffmoe::scheduler::{Instruction, Latent, gaussian};

use crate::case::{Case, FORMS, euler, heun, sample};
use crate::device::{device, limited, turn};

/// The recorded run for another number of samples.
fn run_of(case: &Case, batch: usize, rule: RoutingRule, muted: &str) -> RunConfig {
    let config = case.checkpoint.config();
    let tables = config.labels.iter();
    RunConfig {
        latent: gaussian(7, 1, batch * config.sample_len()),
        labels: tables.map(|t| (0..batch as u32).map(|i| (3 * i) % t.null).collect()).collect(),
        routing: Routing { rule, ..Routing::default() },
        muted: muted.parse().unwrap(),
        record_scores: true,
        ..RunConfig::default()
    }
}

/// Two guided steps, with what they leave of routing and scores.
fn snapshots(
    model: &Arc<GpuModel>,
    batch: usize,
    branches: Branches,
    run: &RunConfig,
    budget: usize,
) -> (usize, Vec<Snapshot>) {
    let mut engine = GpuEngine::with_branches(model.clone(), batch, branches).unwrap();
    let steps = [heun(0, 2, 1.5), euler(1, 2, 3.0)];
    let dispatches = engine.dispatches(&steps[0]).unwrap().len();
    (dispatches, sample(&mut engine, run, &steps, budget))
}

#[test]
fn joined_branches_give_the_bits_of_two_passes() {
    use RoutingRule::{Pool, Token};
    let _turn = turn();
    let settings = [
        ("diffmoe_flow", 1, Pool, ""),
        ("diffmoe_flow", 3, Pool, "0:1"),
        ("diffmoe_flow", 5, Token, ""),
        ("diffmoe_flow", 16, Pool, ""),
        ("diffmoe_swiglu_shared", 3, Pool, ""),
        ("diffmoe_swiglu_shared", 2, Token, "1:0"),
        ("dense_flow", 3, Pool, ""),
        ("tc_flow", 3, Pool, "0:2"),
        ("ec_flow", 3, Pool, "0:2"),
        ("jit_moe", 3, Pool, "1:2"),
        ("promoe", 3, Pool, "1:2"),
        ("promoe_ec", 2, Pool, "1:2"),
        ("dit_moe_flow", 2, Pool, ""),
        ("detail_head", 3, Pool, ""),
    ];
    for profile in [Profile::Software, Profile::Gpu] {
        let gpu = device(profile);
        for (name, batch, rule, muted) in settings {
            let case = Case::open(name);
            let model = case.model(&gpu);
            let run = run_of(&case, batch, rule, muted);
            let of = |branches, budget| snapshots(&model, batch, branches, &run, budget);
            let (many, apart) = of(Branches::Apart, usize::MAX);
            let (few, together) = of(Branches::Together, usize::MAX);
            let what = format!("{name}, {profile:?}, {batch} samples, {rule:?}, muted {muted:?}");
            println!("{what}: {many} dispatches apart, {few} together");
            // Four passes and two combinations, or two of each.
            assert_eq!(2 * (few - 2), many - 2, "{what}");
            assert_eq!(together, apart, "{what}");
            assert!(apart[1].latent.iter().all(|v| v.is_finite()), "{what}");
            assert_eq!(of(Branches::Together, 5).1, apart, "{what}: in slices of five");
        }
    }
}

/// A pool for each branch is not one pool for both, and an engine does either after the other.
#[test]
fn one_pool_for_both_branches_stays_another_thing() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let gpu = device(Profile::Gpu);
    let model = case.model(&gpu);
    let run = run_of(&case, 3, RoutingRule::Pool, "");
    let terms = vec![(1.0, Latent::Sample), (0.5, Latent::Output(0)), (-0.4, Latent::Output(1))];
    let sum = Instruction::Combine { output: Latent::Sample, terms };
    let shared = vec![Instruction::JointForward { input: Latent::Sample, time: 0.2 }, sum.clone()];
    let separate = [&euler(1, 5, 1.5)[..2], &[sum]].concat();
    let steps = [shared, separate];
    let outcomes = [Branches::Apart, Branches::Together].map(|branches| {
        let mut engine = GpuEngine::with_branches(model.clone(), 3, branches).unwrap();
        steps
            .each_ref()
            .map(|step| sample(&mut engine, &run, std::slice::from_ref(step), usize::MAX))
    });
    assert_eq!(outcomes[0], outcomes[1]);
    assert_ne!(outcomes[0][0], outcomes[0][1], "tokens of both branches compete in one pool");
}

#[test]
fn a_guided_step_of_the_emoji_model_is_48_dispatches() {
    let _turn = turn();
    let checkpoint = diffmoe_models::open("emoji").unwrap().unwrap();
    let gpu = device(Profile::Gpu);
    let model = Arc::new(GpuModel::load(gpu, &checkpoint, WeightChoice::Auto).unwrap());
    let mut engine = GpuEngine::new(model.clone(), 4).unwrap();
    assert_eq!(engine.dispatches(&euler(0, 2, 1.5)).unwrap().len(), 48);
    let mut apart = GpuEngine::with_branches(model, 4, Branches::Apart).unwrap();
    assert_eq!(apart.dispatches(&euler(0, 2, 1.5)).unwrap().len(), 95);
}

#[test]
fn without_room_for_both_branches_they_are_computed_one_after_the_other() {
    let _turn = turn();
    let case = Case::open("diffmoe_flow");
    let config = case.checkpoint.config();
    let batch = 16;
    let largest = |limit| {
        Footprint::on_gpu(config, batch, WeightPrecision::F32, Profile::Software, limit).largest
    };
    let (_, of_one) = largest(u64::MAX);
    // Enough for one branch, not for two.
    let gpu = limited(Profile::Gpu, Some(of_one));
    let model = case.model(&gpu);
    let run = run_of(&case, batch, RoutingRule::Pool, "");
    let of = |branches| snapshots(&model, batch, branches, &run, usize::MAX);
    let suitable = of(Branches::Suitable);
    assert_eq!(suitable, of(Branches::Apart));
    let wide = device(Profile::Gpu);
    let (few, want) = snapshots(&case.model(&wide), batch, Branches::Suitable, &run, usize::MAX);
    assert!(few < suitable.0, "{few} dispatches where there is room, {}", suitable.0);
    assert_eq!(suitable.1, want);
}

#[test]
fn the_footprint_foresees_the_working_memory_to_the_byte() {
    let _turn = turn();
    for profile in [Profile::Software, Profile::Gpu] {
        let gpu = device(profile);
        for name in FORMS.into_iter().chain(["detail_head"]) {
            let case = Case::open(name);
            let model = case.model(&gpu);
            for batch in [1, 3, 16] {
                let config = case.checkpoint.config();
                let limit = gpu.binding_limit;
                let foreseen =
                    Footprint::on_gpu(config, batch, WeightPrecision::F32, profile, limit).working;
                let before = gpu.allocated_bytes();
                let mut engine = GpuEngine::new(model.clone(), batch).unwrap();
                let taken = gpu.allocated_bytes() - before;
                assert_eq!(foreseen, taken, "{name}, {profile:?}, {batch} samples");
                // A step takes its numbers and its trace, but no more memory for passes.
                let run = RunConfig {
                    record_scores: false,
                    ..run_of(&case, batch, RoutingRule::Pool, "")
                };
                sample(&mut engine, &run, &[heun(0, 2, 1.5)], usize::MAX);
                let of_step = gpu.allocated_bytes() - before - taken;
                assert_eq!(of_step, step_bytes(&case, batch), "{name}, {batch} samples");
            }
        }
    }
}

/// Times, factors, masks and the empty tensors of a guided step of Heun's method.
fn step_bytes(case: &Case, batch: usize) -> u64 {
    let config = case.checkpoint.config();
    // A detail head reads the times themselves too.
    let times = 4 * batch * (config.hidden_size + usize::from(config.detail_channels > 0));
    let masks = (4 * config.moe_blocks().len() * batch * config.stream_tokens()).max(1);
    let factors = 2 * 8;
    let no_scores = 1;
    4 * (times + masks + factors + no_scores) as u64
}
