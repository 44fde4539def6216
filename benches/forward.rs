//! Times one forward pass of the CPU engine on a given model:
//! `cargo bench -p diffmoe --bench forward -- [MODEL.safetensors [BATCH [RUNS [OUTPUT.safetensors]]]]`, without a model
//! `emoji`.
//!
//! The input is a formula (also in `random_weights.py`; `peers.py` compares this program with ONNX Runtime and PyTorch), the
//! routing is the official one. Prints the times in milliseconds as JSON; `RAYON_NUM_THREADS` sets the threads.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use diffmoe::checkpoint::{TensorOut, write_safetensors};
use diffmoe::engine::{CpuEngine, CpuModel};
use diffmoe::engine::{Engine, Inspect, RunConfig};
use diffmoe::model::{Routing, RoutingRule};
use diffmoe::scheduler::{Branch, Instruction, Latent};
use web_time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Cargo adds options of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |n: usize, default| args.get(n).map_or(Ok(default), |text| text.parse::<usize>());
    let (batch, runs) = (number(1, 2)?, number(2, 30)?);
    let model = args.first().map_or(diffmoe_models::DEFAULT, String::as_str);
    let checkpoint = diffmoe_models::open_any(model)?;
    let config = checkpoint.config().clone();
    let mut engine = CpuEngine::new(Arc::new(CpuModel::load(&checkpoint)?), batch);

    let len = batch * config.sample_len();
    let run = RunConfig {
        latent: (0..len).map(|i| (0.9 * i as f64 + 0.1).sin() as f32).collect(),
        labels: config
            .labels
            .iter()
            .map(|table| (0..batch as u32).map(|b| b % table.null.max(1)).collect())
            .collect(),
        prompts: vec![String::new(); if config.text.is_some() { batch } else { 0 }],
        routing: Routing { rule: RoutingRule::Pool, ..Routing::default() },
        ..RunConfig::default()
    };
    let time = 0.45;
    if let Some(path) = args.get(3) {
        let taps = engine.forward_with_taps(&run, &vec![time; batch])?;
        let tensors: Vec<_> = taps
            .iter()
            .map(|(name, shape, values)| TensorOut::f32(name.clone(), shape, values))
            .collect();
        write_safetensors(Path::new(path), &tensors, HashMap::new())?;
    }
    engine.start(&run)?;
    let forward = [Instruction::Forward {
        input: Latent::Sample,
        output: Latent::Output(0),
        time,
        branch: Branch::Conditional,
    }];
    let mut once = || -> Result<f64, Box<dyn std::error::Error>> {
        let begin = Instant::now();
        engine.begin_step(&forward).expect("room for a pass");
        engine.advance(usize::MAX)?;
        let elapsed = begin.elapsed().as_secs_f64();
        engine.take_snapshot();
        Ok(elapsed * 1e3)
    };
    for _ in 0..5 {
        once()?;
    }
    let mut times = (0..runs.max(1)).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    times.sort_by(f64::total_cmp);
    println!(
        r#"{{"device": "{}", "batch": {batch}, "median_ms": {:.3}, "fastest_ms": {:.3}}}"#,
        engine.device(),
        times[times.len() / 2],
        times[0]
    );
    Ok(())
}
