//! Recorded cases of the official PyTorch modules, and what runs them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{Engine, GpuEngine, GpuModel, Progress, RunConfig, Snapshot};
use diffmoe::gpu::Gpu;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Routing, RoutingRule};
use diffmoe::scheduler::{Branch, Instruction, Latent};
use safetensors::SafeTensors;

/// Float32 with another order of summation, as the parity cases state.
pub(crate) const TOLERANCE: f32 = 1e-4;

/// Cases of every form of experts and routers, and none.
pub(crate) const FORMS: [&str; 9] = [
    "diffmoe_flow",
    "diffmoe_swiglu_shared",
    "dense_flow",
    "tc_flow",
    "ec_flow",
    "dsmoe",
    "jit_moe",
    "promoe",
    "promoe_ec",
];

/// Where a recorded case lies: larger ones may lie beside the repository, small ones of every kind lie inside.
pub(crate) fn folder(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = [
        std::env::var_os("DIFFMOE_FIXTURES").map(PathBuf::from),
        Some(root.join("../shared/fixtures")),
        Some(root.join("tests/fixtures")),
    ];
    let found = candidates.into_iter().flatten().map(|dir| dir.join(name)).find(|dir| dir.is_dir());
    found.unwrap_or_else(|| panic!("the recorded case {name} is missing from tests/fixtures"))
}

/// A parity case, opened.
pub(crate) struct Case {
    pub(crate) checkpoint: Checkpoint,
    info: serde_json::Value,
    pub(crate) io: Vec<u8>,
}

impl Case {
    pub(crate) fn open(name: &str) -> Self {
        let dir = folder(name);
        Self {
            checkpoint: Checkpoint::open(&dir.join("model.safetensors")).unwrap(),
            info: serde_json::from_slice(&std::fs::read(dir.join("case.json")).unwrap()).unwrap(),
            io: std::fs::read(dir.join("io.safetensors")).unwrap(),
        }
    }

    /// A tensor as f32, whatever integers it is stored as.
    pub(crate) fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.io).unwrap();
        let view = file.tensor(name).unwrap();
        let data = view.data();
        match view.dtype() {
            safetensors::Dtype::F32 => bytemuck::pod_collect_to_vec(data),
            safetensors::Dtype::I32 => {
                bytemuck::pod_collect_to_vec::<_, i32>(data).into_iter().map(|v| v as f32).collect()
            }
            safetensors::Dtype::U8 => data.iter().map(|&v| f32::from(v)).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    pub(crate) fn number(&self, key: &str) -> f64 {
        self.info[key].as_f64().unwrap()
    }

    pub(crate) fn labels(&self) -> Vec<Vec<u32>> {
        vec![self.tensor("y").into_iter().map(|y| y as u32).collect()]
    }

    /// The case's sample as the start of a run, with the official pool rule.
    pub(crate) fn run(&self) -> RunConfig {
        RunConfig {
            latent: self.tensor("x"),
            labels: self.labels(),
            routing: Routing { rule: RoutingRule::Pool, ..Routing::default() },
            ..RunConfig::default()
        }
    }

    pub(crate) fn model(&self, gpu: &Arc<Gpu>) -> Arc<GpuModel> {
        let model = GpuModel::load(gpu.clone(), &self.checkpoint, WeightPrecision::F32).unwrap();
        Arc::new(model)
    }

    pub(crate) fn engine(&self, gpu: &Arc<Gpu>) -> GpuEngine {
        GpuEngine::new(self.model(gpu), self.labels()[0].len()).unwrap()
    }
}

pub(crate) fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let difference = |(g, w): (&f32, &f32)| {
        let d = (g - w).abs();
        if d.is_nan() { f32::INFINITY } else { d }
    };
    got.iter().zip(want).map(difference).fold(0.0, f32::max)
}

pub(crate) const COND: Branch = Branch::Conditional;
pub(crate) const NULL: Branch = Branch::Unconditional;

pub(crate) fn forward(input: Latent, output: u8, time: f32, branch: Branch) -> Instruction {
    Instruction::Forward { input, output: Latent::Output(output), time, branch }
}

/// Euler's method, guided where `scale` is not 1: `z += (v_u + s·(v_c − v_u)) / N`.
pub(crate) fn euler(step: u32, steps: u32, scale: f32) -> Vec<Instruction> {
    let (time, dt) = (step as f32 / steps as f32, 1.0 / steps as f32);
    let is_guided = (scale - 1.0).abs() > f32::EPSILON;
    if !is_guided {
        let terms = vec![(1.0, Latent::Sample), (dt, Latent::Output(0))];
        return vec![
            forward(Latent::Sample, 0, time, COND),
            Instruction::Combine { output: Latent::Sample, terms },
        ];
    }
    vec![
        forward(Latent::Sample, 0, time, COND),
        forward(Latent::Sample, 1, time, NULL),
        Instruction::Combine {
            output: Latent::Sample,
            terms: vec![
                (1.0, Latent::Sample),
                (scale * dt, Latent::Output(0)),
                ((1.0 - scale) * dt, Latent::Output(1)),
            ],
        },
    ]
}

/// Heun's method, guided.
pub(crate) fn heun(step: u32, steps: u32, scale: f32) -> Vec<Instruction> {
    let (time, dt) = (step as f32 / steps as f32, 1.0 / steps as f32);
    let next = (step + 1) as f32 / steps as f32;
    let sum = |output, first: u8, factor: f32, count: u8| {
        let mut terms = vec![(1.0, Latent::Sample)];
        for stage in 0..count {
            terms.push((scale * factor, Latent::Output(first + 2 * stage)));
            terms.push(((1.0 - scale) * factor, Latent::Output(first + 2 * stage + 1)));
        }
        Instruction::Combine { output, terms }
    };
    vec![
        forward(Latent::Sample, 0, time, COND),
        forward(Latent::Sample, 1, time, NULL),
        sum(Latent::Trial, 0, dt, 1),
        forward(Latent::Trial, 2, next, COND),
        forward(Latent::Trial, 3, next, NULL),
        sum(Latent::Sample, 0, dt / 2.0, 2),
    ]
}

/// Runs all steps in slices of `budget` dispatches and returns the snapshots.
pub(crate) fn sample(
    engine: &mut GpuEngine,
    run: &RunConfig,
    steps: &[Vec<Instruction>],
    budget: usize,
) -> Vec<Snapshot> {
    engine.start(run).unwrap();
    let mut snapshots = Vec::new();
    for ops in steps {
        engine.begin_step(ops).unwrap();
        loop {
            match engine.advance(budget).unwrap() {
                Progress::Done => break,
                Progress::Working => {}
                Progress::Busy => engine.wait().unwrap(),
            }
        }
        snapshots.extend(engine.take_snapshot());
    }
    engine.wait().unwrap();
    snapshots.extend(std::iter::from_fn(|| engine.take_snapshot()));
    assert_eq!(snapshots.len(), steps.len(), "one snapshot after each step");
    snapshots
}
