//! One forward pass on the GPU, stopped after every block to read its output, for parity checks.

use super::dit::Network;
use super::engine::GpuEngine;
use super::prompts::Prompts;
use crate::engine::contract::of_patches;
use crate::engine::{Engine, EngineError, Inspect, RunConfig, RunPrompts, Taps};
use crate::gpu::{Gpu, GpuError, Readback, Tensor, read_now};
use crate::kernels::NOT_TAKEN;
use crate::model::Kind;
use crate::scheduler::{Branch, Latent};

impl Inspect for GpuEngine {
    fn forward_with_taps(&mut self, run: &RunConfig, times: &[f32]) -> Result<Taps, EngineError> {
        self.start(run)?;
        Ok(forward(self, times)?)
    }
}

impl GpuEngine {
    /// The residual stream after the first blocks of the conditional pass, `[B, T, D]`, at one time for all samples and
    /// with the kernels of a step.
    pub(in crate::engine) async fn stream_after(
        &self,
        time: f32,
        blocks: usize,
    ) -> Result<Vec<f32>, GpuError> {
        let passes = self.joined.as_ref().unwrap_or(&self.single);
        let net = passes.network(&self.model);
        let (gpu, config, acts) = (net.gpu, net.config, net.acts);
        let embedded = self.model.embed_time(time).repeat(acts.batch);
        let shape = [acts.batch, config.hidden_size];
        let embedded = Tensor::upload(gpu, "embedded times", &shape, &embedded);
        let condition = passes.condition(Branch::Conditional);
        let view = condition.view.as_ref();
        let mut tape = net.embed(Latent::Sample, &embedded, &condition.labels, view);
        for i in 0..blocks {
            let memory = self.prompts.as_ref().map(|(prompts, _)| &prompts.memory[i]);
            tape.append(&net.block(i, &condition.labels, view.zip(memory), None));
        }
        let mut encoder = gpu.encoder();
        tape.encode(&mut encoder, 0..tape.len());
        // A pass over both branches begins with this one.
        let len = acts.samples * config.stream_tokens() * config.hidden_size;
        let readback = Readback::schedule_ranges(gpu, &mut encoder, &[(&acts.x, 0..len)]);
        gpu.queue.submit([encoder.finish()]);
        let bytes = readback.arrived(gpu).await?;
        let stream = bytes.iter().flat_map(|part| bytemuck::pod_collect_to_vec(part)).collect();
        Ok(of_patches(config, config.hidden_size, stream))
    }
}

/// Runs the pass on the sample that the engine was started with; `times` has one for each sample.
fn forward(engine: &GpuEngine, times: &[f32]) -> Result<Taps, GpuError> {
    let net = Network { fuses: false, ..engine.network() };
    let (gpu, config, acts) = (net.gpu, net.config, net.acts);
    assert_eq!(times.len(), acts.batch, "one time for each sample");
    let embedded: Vec<f32> = times.iter().flat_map(|&time| engine.model.embed_time(time)).collect();
    let embedded =
        Tensor::upload(gpu, "embedded times", &[acts.batch, config.hidden_size], &embedded);
    let (tokens, d) = (config.tokens(), config.hidden_size);
    let mut taps = Taps::new();
    let condition = engine.single.condition(Branch::Conditional);
    let view = condition.view.as_ref();
    if let (Some(view), Some((prompts, run))) = (view, &engine.prompts) {
        text(gpu, prompts, run, &mut taps)?;
        let pooled = read_now(gpu, &view.pooled)?;
        taps.push(("text.pooled".into(), view.pooled.shape.clone(), pooled));
    }
    net.embed(Latent::Sample, &embedded, &condition.labels, view).run(gpu);
    for i in 0..config.depth {
        let memory = engine.prompts.as_ref().map(|(prompts, _)| &prompts.memory[i]);
        net.block(i, &condition.labels, view.zip(memory), None).run(gpu);
        let name = |what: &str| format!("blocks.{i}.{what}");
        let x = of_patches(config, d, read_now(gpu, &acts.x)?);
        taps.push((name("out"), vec![acts.batch, tokens, d], x));
        if let (true, Kind::DiffMoe, Some(moe)) = (config.is_moe(i), config.kind, &acts.moe) {
            let shape = moe.gate.shape.clone();
            taps.push((name("moe_in"), vec![shape[0], d], read_now(gpu, &acts.h)?));
            taps.push((name("capacity"), shape.clone(), read_now(gpu, &moe.need)?));
            taps.push((name("gate"), shape.clone(), read_now(gpu, &moe.gate)?));
            let counts: Vec<u32> = read_now(gpu, &moe.counts)?;
            let counts = counts.into_iter().map(|n| n as f32).collect();
            taps.push((name("k"), vec![shape[1]], counts));
            let positions: Vec<u32> = read_now(gpu, &moe.positions)?;
            let taken = |position| if position == NOT_TAKEN { 0.0 } else { 1.0 };
            taps.push((name("selected"), shape, positions.into_iter().map(taken).collect()));
        }
    }
    let [height, width] = config.input_size;
    let first = acts.region(config, Latent::Output(0)).first;
    let output = |name: &str| -> Result<_, GpuError> {
        let latents: Vec<f32> = read_now(gpu, &acts.latents)?;
        let out = latents[first..first + acts.batch * config.output_len()].to_vec();
        Ok((name.to_owned(), vec![acts.batch, config.out_channels, height, width], out))
    };
    net.final_layer(Latent::Output(0)).run(gpu);
    if config.detail_channels > 0 {
        taps.push(output("detail_head.x")?);
        let times = Tensor::upload(gpu, "times", &[acts.batch], times);
        net.detail_head(Latent::Sample, Latent::Output(0), &times).run(gpu);
    }
    taps.push(output("out")?);
    Ok(taps)
}

/// What the prompts became, sample by sample as the conditional passes see them.
fn text(gpu: &Gpu, prompts: &Prompts, run: &RunPrompts, taps: &mut Taps) -> Result<(), GpuError> {
    let batch = run.of_samples[0].len();
    let length = run.distinct[0].ids.len();
    for (branch, name) in ["tokens", "negative_tokens"].into_iter().enumerate() {
        taps.push((name.into(), vec![batch, length], run.ids(branch)));
    }
    let memory = prompts.memory.iter().enumerate().map(|(i, m)| (format!("blocks.{i}.kv"), m));
    for (name, tensor) in std::iter::once(("text.out".to_owned(), &prompts.states)).chain(memory) {
        let values: Vec<f32> = read_now(gpu, tensor)?;
        let size = length * tensor.shape[1];
        let of_sample = |&prompt: &usize| &values[prompt * size..][..size];
        let seen = run.of_samples[0].iter().flat_map(of_sample).copied().collect();
        taps.push((name, vec![batch, length, tensor.shape[1]], seen));
    }
    Ok(())
}
