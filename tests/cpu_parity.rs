//! The CPU model against the official modules: golden numbers of a tiny model that is made here from a
//! formula, and recorded passes of random models where the parity fixtures are present.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it as the test itself does")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffmoe::checkpoint::{Checkpoint, TensorOut, write_safetensors};
use diffmoe::engine::{CpuEngine, CpuModel};
use diffmoe::engine::{Engine, Inspect, Progress, RunConfig, Snapshot, Taps};
use diffmoe::model::{Config, Routing, RoutingRule};
use diffmoe::scheduler::{Branch, Denoise, Instruction, Latent};
use diffmoe::scheduler::{Next, ScheduleConfig, SchedulerKind, StepNoise};

/// Routing as in the official code.
const OFFICIAL: Routing =
    Routing { rule: RoutingRule::Pool, gamma: None, shift: 0.0, log_odds: 0.0 };

/// The fixed sine and cosine table of the positions, `[T, D]`: column first, then row.
fn pos_embed(d: usize, grid: usize) -> Vec<f32> {
    let sincos = |v: usize| {
        let angle = move |k: usize| v as f64 * 10_000_f64.powf(-(k as f64) / (d / 4) as f64);
        let (sin, cos) = (move |k| angle(k).sin(), move |k| angle(k).cos());
        (0..d / 4).map(sin).chain((0..d / 4).map(cos)).map(|x| x as f32)
    };
    (0..grid * grid).flat_map(|t| sincos(t % grid).chain(sincos(t / grid))).collect()
}

fn cpu_engine(checkpoint: &Checkpoint, batch: usize) -> CpuEngine {
    CpuEngine::new(Arc::new(CpuModel::load(checkpoint).unwrap()), batch)
}

/// The tiny model of the golden numbers: tensor number n holds 0.2·sin(0.7·i + 1.3·n).
fn tiny(kind: &str) -> Checkpoint {
    let shared = if kind == "tc" { "null" } else { "0" };
    let text = format!(
        r#"{{"kind":"{kind}","t_kind":"flow","null_class":10,"params":{{"input_size":4,"num_classes":10,
        "patch_size":2,"depth":2,"hidden_size":16,"num_heads":2,"mlp_ratio":4,"use_swiglu":false,
        "MoE_config":{{"num_experts":4,"capacity":1,"n_shared_experts":{shared},"interleave":true}}}}}}"#
    );
    let config = Config::from_json(&text).unwrap();
    let tensors: Vec<_> = config
        .tensors()
        .into_iter()
        .zip(1..)
        .map(|(spec, n)| {
            let len = spec.shape.iter().product();
            let sine = |i: usize| (0.2 * (0.7 * i as f64 + 1.3 * f64::from(n)).sin()) as f32;
            let values = match spec.name.as_str() {
                "pos_embed" => pos_embed(16, 2),
                name if name.ends_with("ema_decay") => vec![0.95],
                name if name.ends_with("expert_threshold") => vec![0.5; len],
                _ => (0..len).map(sine).collect(),
            };
            TensorOut::f32(spec.name, &spec.shape, &values)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.safetensors");
    write_safetensors(&path, &tensors, HashMap::from([("diffmoe".into(), text)])).unwrap();
    Checkpoint::open(&path).unwrap()
}

/// The tiny model's input, `[3, 4, 4, 4]`.
fn tiny_run(labels: [u32; 3], routing: Routing) -> RunConfig {
    let latent = (0..192).map(|i| (0.9 * f64::from(i) + 0.1).sin() as f32).collect();
    RunConfig { latent, labels: vec![labels.to_vec()], routing, ..RunConfig::default() }
}

fn tap<'a>(taps: &'a Taps, name: &str) -> &'a [f32] {
    &taps.iter().find(|tap| tap.0 == name).unwrap_or_else(|| panic!("no tap {name}")).2
}

fn assert_near(got: &[f32], want: &[f32], allowed: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let error = largest_error(got, want);
    assert!(error <= allowed, "{what}: {error} off; {got:?} for {want:?}");
}

fn largest_error(got: &[f32], want: &[f32]) -> f32 {
    // `max` would drop a NaN.
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, |m, e| if e <= m { m } else { e })
}

/// Sum, sum of magnitudes (0 where it is not known), first and last listed numbers.
type Golden = (&'static str, Routing, f64, f64, [f32; 4], [f32; 4]);

#[test]
fn tiny_models_give_the_official_numbers() {
    let per_token = Routing { rule: RoutingRule::Token, ..OFFICIAL };
    let golden: [Golden; 5] = [
        (
            "dense",
            OFFICIAL,
            8.148_972,
            552.505_37,
            [-1.438_012_2, -1.411_261_9, -1.648_948_4, -0.983_191],
            [-2.280_197_1, -1.335_024, -2.206_215_9, -1.164_949_3],
        ),
        (
            "ec",
            OFFICIAL,
            3.859_753,
            506.945_37,
            [1.813_589_1, -0.983_212_9, 1.431_099_5, -1.342_735_8],
            [2.014_364_7, -0.998_763_4, 1.826_682_8, -0.983_081_8],
        ),
        (
            "tc",
            OFFICIAL,
            3.734_157,
            513.620_12,
            [1.940_900_8, -0.824_789_3, 1.510_152_9, -1.365_594_6],
            [2.043_694_7, -0.981_910_2, 1.836_778_2, -0.950_833_8],
        ),
        (
            "diffmoe",
            OFFICIAL,
            10.628_209,
            573.038_21,
            [-0.594_574_5, -2.243_808_5, -0.949_784_8, -1.790_919_9],
            [-1.493_868_1, -2.171_506_6, -1.520_288_8, -2.032_016],
        ),
        (
            "diffmoe",
            per_token,
            10.635_57,
            0.0,
            [-0.564_009, -2.192_065, -0.949_785, -1.790_92],
            [-1.493_868, -2.171_507, -1.520_289, -2.032_016],
        ),
    ];
    for (kind, routing, sum, magnitude, first, last) in golden {
        let mut engine = cpu_engine(&tiny(kind), 3);
        let taps =
            engine.forward_with_taps(&tiny_run([1, 7, 10], routing), &[0.1, 0.45, 0.8]).unwrap();
        let out = tap(&taps, "out");
        assert_near(&out[..4], &first, 5e-6, kind);
        assert_near(&out[out.len() - 4..], &last, 5e-6, kind);
        let total = |f: fn(f64) -> f64| out.iter().map(|&x| f(f64::from(x))).sum::<f64>();
        assert!((total(|x| x) - sum).abs() < 2e-4, "{kind}: Σ {}", total(|x| x));
        if magnitude > 0.0 {
            assert!((total(f64::abs) - magnitude).abs() < 5e-4, "{kind}: {}", total(f64::abs));
        }
    }
}

#[test]
fn tiny_routing_is_the_official_one() {
    let mut engine = cpu_engine(&tiny("diffmoe"), 3);
    let times = [0.1, 0.45, 0.8];
    let taps = engine.forward_with_taps(&tiny_run([1, 7, 10], OFFICIAL), &times).unwrap();
    assert_eq!(tap(&taps, "blocks.1.k"), [12.0, 11.0, 11.0, 0.0]);
    let left_out = |taps: &Taps, e: usize| -> Vec<usize> {
        let selected = tap(taps, "blocks.1.selected");
        (0..12).filter(|s| selected[s * 4 + e] == 0.0).collect()
    };
    assert_eq!(left_out(&taps, 1), [0]);
    assert_eq!(left_out(&taps, 2), [8]);
    let capacity = [0.512_619_7, 0.536_943_9, 0.528_827_1, 0.463_075_3];
    assert_near(&tap(&taps, "blocks.1.capacity")[..4], &capacity, 1e-6, "capacity");
    let gate = [0.579_000_9, 0.373_715_8, 0.030_331_5, 0.016_951_8];
    assert_near(&tap(&taps, "blocks.1.gate")[..4], &gate, 1e-6, "gate");

    let per_token = Routing { rule: RoutingRule::Token, ..OFFICIAL };
    let taps = engine.forward_with_taps(&tiny_run([1, 7, 10], per_token), &times).unwrap();
    assert_eq!(left_out(&taps, 1), [6]);
    assert_eq!(left_out(&taps, 2), [6]);
}

/// `v` in `Output(0)`: one pass, or `v_u + guidance·(v_c - v_u)` as two passes. Gives the terms of `v`.
fn velocity(
    ops: &mut Vec<Instruction>,
    input: Latent,
    time: f32,
    guidance: f32,
    to: u8,
) -> Vec<(f32, Latent)> {
    let mut pass = |branch, to| {
        ops.push(Instruction::Forward { input, output: Latent::Output(to), time, branch });
        Latent::Output(to)
    };
    let conditional = pass(Branch::Conditional, to);
    #[expect(clippy::float_cmp, reason = "exactly 1 switches guidance off")]
    if guidance == 1.0 {
        return vec![(1.0, conditional)];
    }
    let unconditional = pass(Branch::Unconditional, to + 1);
    vec![(1.0 - guidance, unconditional), (guidance, conditional)]
}

/// Step `i` of `n` of Euler's or Heun's method.
fn flow_step(heun: bool, i: u32, n: u32, guidance: f32) -> Vec<Instruction> {
    let step = 1.0 / n as f32;
    let time = |i: u32| i as f32 / n as f32;
    let scaled =
        |by: f32, v: &[(f32, Latent)]| v.iter().map(|t| (by * t.0, t.1)).collect::<Vec<_>>();
    let latent = (1.0, Latent::Sample);
    let mut ops = Vec::new();
    let v1 = velocity(&mut ops, Latent::Sample, time(i), guidance, 0);
    if !heun {
        let terms = [vec![latent], scaled(step, &v1)].concat();
        ops.push(Instruction::Combine { output: Latent::Sample, terms });
        return ops;
    }
    let terms = [vec![latent], scaled(step, &v1)].concat();
    ops.push(Instruction::Combine { output: Latent::Trial, terms });
    let v2 = velocity(&mut ops, Latent::Trial, time(i + 1), guidance, 2);
    let terms = [vec![latent], scaled(step / 2.0, &v1), scaled(step / 2.0, &v2)].concat();
    ops.push(Instruction::Combine { output: Latent::Sample, terms });
    ops
}

/// Runs a whole sampling, `budget` units at a time, and gives all snapshots.
fn sample(
    engine: &mut CpuEngine,
    run: &RunConfig,
    heun: bool,
    steps: u32,
    guidance: f32,
    budget: usize,
) -> Vec<Snapshot> {
    engine.start(run).unwrap();
    for i in 0..steps {
        engine.begin_step(&flow_step(heun, i, steps, guidance)).unwrap();
        while engine.advance(budget).unwrap() != Progress::Done {}
    }
    // Times differ from run to run; everything else is compared bit for bit.
    let untimed = |snapshot| Snapshot { stage_ms: Vec::new(), ..snapshot };
    std::iter::from_fn(|| engine.take_snapshot()).map(untimed).collect()
}

#[test]
fn tiny_samples_are_the_official_ones() {
    let mut engine = cpu_engine(&tiny("diffmoe"), 3);
    let run = tiny_run([1, 7, 3], OFFICIAL);
    let golden = [
        (
            false,
            1.0,
            [20.185_701, 295.654_633],
            [-0.409_802, -1.345_469, -0.002_79, -1.594_72],
            [0.598_359, -1.514_791, 1.724_094, -1.140_262],
        ),
        (
            false,
            1.5,
            [20.102_11, 286.825_287],
            [-0.420_294, -1.347_238, 0.002_21, -1.571_433],
            [0.604_26, -1.420_792, 1.705_683, -1.057_539],
        ),
        (
            true,
            1.5,
            [20.075_554, 285.785_034],
            [-0.389_498, -1.311_691, 0.011_275, -1.607_865],
            [0.615_072, -1.395_492, 1.710_121, -1.014_197],
        ),
    ];
    for (heun, guidance, [sum, magnitude], first, last) in golden {
        let what = format!("heun {heun}, guidance {guidance}");
        let snapshots = sample(&mut engine, &run, heun, 4, guidance, usize::MAX);
        let latent = &snapshots.last().unwrap().latent;
        assert_near(&latent[..4], &first, 2e-6, &what);
        assert_near(&latent[188..], &last, 2e-6, &what);
        let got: f64 = latent.iter().map(|&x| f64::from(x)).sum();
        assert!((got - sum).abs() < 1e-4, "{what}: Σ {got}");
        let got: f64 = latent.iter().map(|&x| f64::from(x).abs()).sum();
        assert!((got - magnitude).abs() < 1e-4, "{what}: Σ|z| {got}");
    }
}

/// The official functions `p_mean_variance` and `ddim_sample`, called once in the middle of ten steps.
#[test]
fn one_step_of_ddpm_and_ddim_is_the_official_one() {
    let checkpoint = tiny("dense");
    let mut engine = cpu_engine(&checkpoint, 3);
    let run = tiny_run([1, 7, 3], OFFICIAL);
    // Step 5 counted from the data is the fifth from the noise.
    let step = |name: &str| {
        let kind: SchedulerKind = name.parse().unwrap();
        let noise = StepNoise::Seeded { seed: 0, images: 0..3 };
        let run = ScheduleConfig::new(10, 1.0, noise);
        let mut scheduler = kind.schedule(checkpoint.config(), run);
        let steps: Vec<_> = (0..5).map(|_| scheduler.next()).collect();
        let Some(Next::Step(ops)) = steps.last() else { panic!("{steps:?}") };
        let [Instruction::Forward { .. }, Instruction::Denoise(step)] = &ops[..] else {
            panic!("{ops:?}")
        };
        (ops[0].clone(), step.clone())
    };
    let mut sample = |pass: &Instruction, step: Denoise| {
        engine.start(&run).unwrap();
        engine.finish_step(&[pass.clone(), Instruction::Denoise(step)]).unwrap();
        engine.take_snapshot().unwrap().latent
    };
    let sum = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
    let near = |got: f64, want: f64| assert!((got - want).abs() < 2e-4, "{got} for {want}");

    let (pass, ancestral) = step("ddpm");
    let mean = sample(&pass, Denoise { noise: None, ..ancestral.clone() });
    near(sum(&mean), -23.275_618);
    assert_near(&mean[..4], &[1.931_043, 3.181_796, 3.673_892, 1.785_262], 5e-6, "mean");
    let start = sample(&pass, Denoise { noise: None, mean: [1.0, 0.0], ..ancestral.clone() });
    near(sum(&start), -94.934_12);
    // With noise 1, and twice the logarithm of what it adds, the variance shows.
    let ones = Some(Arc::new(vec![1.0; 192]));
    let noisy = sample(&pass, Denoise { noise: ones, mean: [0.0, 0.0], ..ancestral });
    let logs: Vec<f32> = noisy.iter().map(|deviation| 2.0 * deviation.ln()).collect();
    near(sum(&logs), -85.758_316);

    let (pass, implicit) = step("ddim");
    assert_eq!(implicit.noise, None, "without eta nothing is random");
    let next = sample(&pass, implicit);
    near(sum(&next), -13.747_724);
    assert_near(&next[..4], &[1.312_941, 2.580_986, 2.964_545, 1.363_544], 5e-6, "DDIM");
}

/// `forward_with_cfg`: both branches in one pool, three of four channels guided.
#[test]
fn a_joint_pass_is_the_official_guidance() {
    let mut engine = cpu_engine(&tiny("diffmoe"), 3);
    engine.start(&tiny_run([1, 7, 3], OFFICIAL)).unwrap();
    // With these factors the sample becomes the guided noise itself.
    let step = Denoise {
        guidance: 1.5,
        guided_channels: 3,
        predict: [0.0, -1.0],
        clip: false,
        mean: [1.0, 0.0],
        deviation: diffmoe::scheduler::Deviation::Fixed(0.0),
        noise: None,
    };
    let pass = Instruction::JointForward { input: Latent::Sample, time: 0.45 };
    engine.finish_step(&[pass, Instruction::Denoise(step)]).unwrap();
    let snapshot = engine.take_snapshot().unwrap();
    let row = |channel: usize| &snapshot.latent[channel * 16..][..4];
    assert_near(row(2), &[1.690_657, 1.858_358, 1.909_182, 1.373_669], 5e-6, "guided");
    assert_near(row(3), &[-1.417_064, 2.138_611, -0.886_676, 2.202_499], 5e-6, "not guided");
    let branches: Vec<_> = snapshot.routing.iter().map(|pass| pass.branch).collect();
    assert_eq!(branches, [Branch::Conditional, Branch::Unconditional]);
    assert!(snapshot.routing.iter().all(|pass| pass.layers[0].masks.len() == 12));
}

#[test]
fn slices_and_repetition_change_no_bit() {
    let mut engine = cpu_engine(&tiny("diffmoe"), 3);
    let run = tiny_run([1, 7, 3], OFFICIAL);
    let whole = sample(&mut engine, &run, true, 3, 1.5, usize::MAX);
    let sliced = sample(&mut engine, &run, true, 3, 1.5, 1);
    assert_eq!(whole, sliced);
    assert_eq!(whole, sample(&mut engine, &run, true, 3, 1.5, 5));
    let passes: Vec<_> = whole.iter().map(|s| (s.steps, s.routing.len())).collect();
    assert_eq!(passes, [(1, 4), (2, 4), (3, 4)]);
    let pass = &whole[1].routing[2];
    assert_eq!((pass.step, pass.branch), (1, Branch::Conditional));
    assert!((pass.time - 2.0 / 3.0).abs() < 1e-6);
    assert_eq!(pass.layers.iter().map(|l| (l.block, l.masks.len())).collect::<Vec<_>>(), [(1, 12)]);
}

#[test]
fn a_unit_is_less_than_a_step() {
    let mut engine = cpu_engine(&tiny("diffmoe"), 3);
    engine.start(&tiny_run([1, 7, 3], OFFICIAL)).unwrap();
    assert_eq!(engine.advance(1).unwrap(), Progress::Done, "no step was begun");
    engine.begin_step(&flow_step(false, 0, 4, 1.0)).unwrap();
    // Patches, two halves of two blocks, the head, and the combination.
    for unit in 0..6 {
        assert_eq!(engine.advance(1).unwrap(), Progress::Working, "unit {unit}");
        assert_eq!(engine.take_snapshot(), None);
    }
    assert_eq!(engine.advance(1).unwrap(), Progress::Done);
    assert_eq!(engine.take_snapshot().map(|s| s.steps), Some(1));
    assert_eq!(engine.advance(1).unwrap(), Progress::Done);
    assert_eq!(engine.take_snapshot(), None, "one snapshot for one step");
}

#[test]
fn with_the_token_rule_a_sample_does_not_depend_on_its_batch_mates() {
    let checkpoint = tiny("diffmoe");
    let run = tiny_run([1, 7, 3], Routing::default());
    let three = sample(&mut cpu_engine(&checkpoint, 3), &run, false, 2, 1.5, 9);
    let alone = RunConfig {
        latent: run.latent[64..128].to_vec(),
        labels: vec![vec![7]],
        routing: run.routing,
        ..RunConfig::default()
    };
    let one = sample(&mut cpu_engine(&checkpoint, 1), &alone, false, 2, 1.5, 9);
    assert_eq!(three[1].latent[64..128], one[1].latent[..]);
}

/// Where the parity fixtures are, if they are.
fn fixtures() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("DIFFMOE_FIXTURES").map(PathBuf::from);
    let root = named.unwrap_or_else(|| here.join("../shared/fixtures"));
    let recorded = here.join("tests/fixtures");
    let cases = |root: &Path| -> Vec<PathBuf> {
        [
            "dense_flow",
            "diffmoe_ddpm",
            "diffmoe_flow",
            "diffmoe_swiglu_shared",
            "ec_flow",
            "tc_flow",
        ]
        .iter()
        .map(|name| root.join(name))
        .filter(|folder| folder.join("io.safetensors").exists())
        .collect()
    };
    let found = [cases(&root), cases(&recorded)].concat();
    assert!(!found.is_empty(), "no parity cases in {} or {}", root.display(), recorded.display());
    found
}

/// Tensors of an `io.safetensors` as f32.
fn read_io(path: &Path) -> HashMap<String, Vec<f32>> {
    use safetensors::{Dtype, SafeTensors};
    let bytes = std::fs::read(path).unwrap();
    SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| {
            let words = || view.data().as_chunks::<4>().0.iter();
            let values = match view.dtype() {
                Dtype::F32 => words().map(|&b| f32::from_le_bytes(b)).collect(),
                Dtype::I32 => words().map(|&b| i32::from_le_bytes(b) as f32).collect(),
                Dtype::I64 => {
                    let longs = view.data().as_chunks::<8>().0.iter();
                    longs.map(|&b| i64::from_le_bytes(b) as f32).collect()
                }
                _ => view.data().iter().map(|&b| f32::from(b)).collect(),
            };
            (name.to_owned(), values)
        })
        .collect()
}

#[test]
fn recorded_passes_and_samples_are_reproduced() {
    for folder in fixtures() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let checkpoint = Checkpoint::open(&folder.join("model.safetensors")).unwrap();
        let io = read_io(&folder.join("io.safetensors"));
        let labels: Vec<u32> = io["y"].iter().map(|&y| y as u32).collect();
        let run = RunConfig {
            latent: io["x"].clone(),
            labels: vec![labels],
            routing: OFFICIAL,
            ..RunConfig::default()
        };
        let mut engine = cpu_engine(&checkpoint, io["t"].len());
        let taps = engine.forward_with_taps(&run, &io["t"]).unwrap();
        let mut compared = 0;
        // Taps come in the order of computation: the first that is wrong is where to look.
        for (tap, _, got) in &taps {
            let Some(want) = io.get(tap) else { continue };
            let exact = matches!(tap.rsplit('.').next(), Some("k" | "selected"));
            let error = largest_error(got, want);
            println!("{name} {tap}: {error:.2e}");
            assert!(error <= if exact { 0.0 } else { 1e-4 }, "{name} {tap}: {error} off");
            assert_eq!(got.len(), want.len(), "{name} {tap}");
            compared += 1;
        }
        assert!(compared > checkpoint.config().depth, "{name}: only {compared} taps compared");
        let case: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
        let [steps, heun_steps] = ["steps", "heun_steps"].map(|k| case[k].as_u64().unwrap() as u32);
        let guidance = case["cfg_scale"].as_f64().unwrap() as f32;
        for (key, heun, steps, guidance) in [
            ("euler_nocfg", false, steps, 1.0),
            ("euler_cfg", false, steps, guidance),
            ("heun_cfg", true, heun_steps, guidance),
        ] {
            let Some(want) = io.get(key) else { continue };
            let snapshots = sample(&mut engine, &run, heun, steps, guidance, 7);
            let error = largest_error(&snapshots.last().unwrap().latent, want);
            println!("{name} {key}: {error:.2e}");
            assert!(error <= 1e-4, "{name} {key}: {error} off");
        }
    }
}
