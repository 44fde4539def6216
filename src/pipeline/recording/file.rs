//! Recordings as files: a header in JSON, then bytes, all deflated.
//!
//! Numbers are rounded, because a recording is looked at and not computed with: needs to a quarter of a log-odd above or
//! below their threshold and no further than twelve from it, gates to a quarter below the strongest of their token,
//! images to 64 levels. Which expert took which token is kept exactly: it is the sign of the margin. Bytes are
//! differences from one step to the next, which deflate well.

use half::f16;
use serde::{Deserialize, Serialize};

use super::data::{Recording, RecordingError};
use crate::engine::{ForwardRouting, LayerRouting, Scores};
use crate::pipeline::Recipe;
use crate::scheduler::Branch;
use crate::trace::{Trace, logit};

/// What a file begins with.
const MAGIC: &[u8; 8] = b"DMoEREC1";
/// Bytes of a file, unpacked, at most.
const MOST_BYTES: usize = 64 << 20;
/// Log-odds of a margin or a gate between two numbers of a file.
const STEP: f32 = 0.25;
/// Margins and gates no further than this: beyond it nobody can tell them apart.
const MOST_MARGIN: f32 = 12.0;
const MOST_GATE: f32 = 8.0;
/// Levels of a colour channel.
const LEVELS: f32 = 63.0;

#[derive(Serialize, Deserialize)]
struct Header {
    recipe: String,
    model: String,
    size: [usize; 2],
    experts: usize,
    grid: [usize; 2],
    labels: Vec<Vec<String>>,
    images: usize,
    steps: usize,
    /// Step, time and whether it has labels, in the order of computation.
    passes: Vec<(u32, f32, bool)>,
    /// Block and thresholds.
    layers: Vec<(usize, Vec<f32>)>,
    /// Passes of a model with a refiner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refined: Option<Refined>,
}

/// What is different in a run that a refiner ended.
#[derive(Serialize, Deserialize)]
struct Refined {
    /// Its first pass.
    from: usize,
    /// The size of tokens before ([`ForwardRouting::scale`]).
    scale: u32,
    /// Its thresholds, by layer.
    thresholds: Vec<Vec<f32>>,
}

impl Refined {
    /// `None` where all passes are of one model.
    fn of(forwards: &[ForwardRouting]) -> Option<Self> {
        let thresholds = |forward: &ForwardRouting| {
            forward.layers.iter().map(|l| scores(l).thresholds.clone()).collect::<Vec<_>>()
        };
        let first = forwards.first()?;
        let of_first = (first.scale, thresholds(first));
        let is_other = |f: &ForwardRouting| (f.scale, thresholds(f)) != of_first;
        let from = forwards.iter().position(is_other)?;
        Some(Self { from, scale: first.scale, thresholds: thresholds(&forwards[from]) })
    }
}

impl Header {
    /// Places in [`Header::passes`], those with labels first, so that neighbours resemble each other.
    fn order(&self) -> Vec<usize> {
        let of = |with: bool| (0..self.passes.len()).filter(move |&i| self.passes[i].2 == with);
        of(true).chain(of(false)).collect()
    }

    /// The thresholds of a layer in a pass.
    fn thresholds(&self, pass: usize, layer: usize) -> &[f32] {
        match self.refined.as_ref().filter(|refined| pass >= refined.from) {
            Some(refined) => &refined.thresholds[layer],
            None => &self.layers[layer].1,
        }
    }

    /// The thresholds of an expert in the given passes, as log-odds.
    fn log_odds(&self, passes: &[usize], layer: usize, expert: usize) -> Vec<f32> {
        passes.iter().map(|&pass| logit(self.thresholds(pass, layer)[expert])).collect()
    }

    /// Whether there is a threshold for every expert of every layer.
    fn has_thresholds(&self) -> bool {
        let of_refiner = self.refined.as_ref().map(|refined| &refined.thresholds);
        let lists = self.layers.iter().map(|(_, thresholds)| thresholds);
        lists.chain(of_refiner.into_iter().flatten()).all(|list| list.len() == self.experts)
            && of_refiner.is_none_or(|lists| lists.len() == self.layers.len())
    }

    /// Bytes of the scores of one kind, and of the images; `None` where a product overflows.
    fn lengths(&self) -> Option<(usize, usize)> {
        let product = |numbers: &[usize]| {
            numbers.iter().try_fold(1_usize, |product, &n| product.checked_mul(n))
        };
        let [rows, columns] = self.grid;
        let passes = self.passes.len();
        let pairs = [self.images, rows, columns, self.experts, self.layers.len(), passes];
        let [height, width] = self.size;
        Some((product(&pairs)?, product(&[self.images, 3, height, width, self.steps])?))
    }
}

impl Recording {
    /// The recording as a file.
    ///
    /// # Panics
    /// When the trace has no scores.
    pub fn to_bytes(&self) -> Vec<u8> {
        let trace = &self.trace;
        let forwards = trace.forwards();
        let first = forwards.first().map_or(&[][..], |forward| &forward.layers);
        let header = Header {
            recipe: self.recipe.to_text(),
            model: trace.model().to_owned(),
            size: self.size,
            experts: trace.experts(),
            grid: trace.grid(),
            labels: trace.labels().to_vec(),
            images: self.images(),
            steps: self.expected.len(),
            passes: forwards
                .iter()
                .map(|f| (f.step, f.time, f.branch == Branch::Conditional))
                .collect(),
            layers: first.iter().map(|l| (l.block, scores(l).thresholds.clone())).collect(),
            refined: Refined::of(forwards),
        };
        let json = serde_json::to_vec(&header).unwrap_or_default();
        let mut bytes = (json.len() as u32).to_le_bytes().to_vec();
        bytes.extend(json);
        let order = header.order();
        let mut margins = Vec::new();
        let mut gates = Vec::new();
        for layer in 0..header.layers.len() {
            for e in 0..header.experts {
                let thresholds = header.log_odds(&order, layer, e);
                for token in 0..header.images * trace.tokens() {
                    let at = token * header.experts + e;
                    let (mut margin, mut gate) = (0, 0);
                    for (&pass, threshold) in order.iter().zip(&thresholds) {
                        let routing = &forwards[pass].layers[layer];
                        let Scores { need, gate: all, .. } = scores(routing);
                        let taken = routing.masks[token] >> e & 1 == 1;
                        let next = margin_byte(need[at].to_f32() - threshold, taken);
                        margins.push(next.wrapping_sub(margin) as u8);
                        margin = next;
                        let row = &all[token * header.experts..][..header.experts];
                        let next = gate_byte(row, all[at]);
                        gates.push(next.wrapping_sub(gate) as u8);
                        gate = next;
                    }
                }
            }
        }
        bytes.extend(margins);
        bytes.extend(gates);
        let mut before = vec![0_u8; self.expected.first().map_or(0, Vec::len)];
        for expected in &self.expected {
            for (value, before) in expected.iter().zip(&mut before) {
                let level = (f32::midpoint(value.clamp(-1.0, 1.0), 1.0) * LEVELS).round() as u8;
                bytes.push(level.wrapping_sub(*before));
                *before = level;
            }
        }
        let packed = miniz_oxide::deflate::compress_to_vec_zlib(&bytes, 10);
        [MAGIC.as_slice(), &packed].concat()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When the bytes are no recording, or a damaged one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordingError> {
        let damaged = |what: &str| RecordingError::Damaged(what.to_owned());
        let packed = bytes.strip_prefix(MAGIC).ok_or(RecordingError::Unreadable)?;
        let bytes = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(packed, MOST_BYTES)
            .map_err(|_| damaged("it does not unpack"))?;
        let (length, rest) =
            bytes.split_first_chunk::<4>().ok_or_else(|| damaged("it is empty"))?;
        let split = rest.split_at_checked(u32::from_le_bytes(*length) as usize);
        let (json, data) = split.ok_or_else(|| damaged("it ends early"))?;
        let header: Header = serde_json::from_slice(json)
            .map_err(|error| RecordingError::Damaged(error.to_string()))?;
        let (pairs, pixels) = header.lengths().ok_or_else(|| damaged("its sizes"))?;
        let all = pairs.checked_mul(2).and_then(|scores| scores.checked_add(pixels));
        if all != Some(data.len()) || header.experts == 0 || header.passes.is_empty() {
            return Err(damaged("its sizes do not fit its bytes"));
        }
        if !header.has_thresholds() {
            return Err(damaged("its thresholds"));
        }
        let recipe = Recipe::parse(&header.recipe)
            .map_err(|error| RecordingError::Damaged(error.to_string()))?;
        let forwards = header.forwards(&data[..pairs], &data[pairs..2 * pairs]);
        let trace = Trace::from_parts(
            &header.model,
            header.experts,
            header.grid,
            header.labels.clone(),
            forwards,
        )?;
        let steps = header.passes.iter().map(|pass| pass.0 as usize);
        if trace.steps() as usize != header.steps || trace.images() != header.images {
            return Err(damaged("its steps or images"));
        }
        if !(0..header.steps).all(|step| steps.clone().any(|other| other == step)) {
            return Err(damaged("a step without a pass"));
        }
        let mut expected: Vec<Vec<f32>> = Vec::new();
        let mut levels = vec![0_u8; pixels / header.steps];
        for differences in data[2 * pairs..].chunks_exact(levels.len().max(1)) {
            for (level, difference) in levels.iter_mut().zip(differences) {
                *level = level.wrapping_add(*difference);
            }
            let value = |&level: &u8| f32::from(level) / LEVELS * 2.0 - 1.0;
            expected.push(levels.iter().map(value).collect());
        }
        Ok(Self { recipe, size: header.size, trace, expected })
    }
}

impl Header {
    /// The passes with their masks and scores.
    fn forwards(&self, margins: &[u8], gates: &[u8]) -> Vec<ForwardRouting> {
        let pool = self.images * self.grid[0] * self.grid[1];
        let layer = |pass: usize, layer: usize| LayerRouting {
            block: self.layers[layer].0,
            masks: vec![0; pool],
            scores: Some(Scores {
                gate: vec![f16::ZERO; pool * self.experts],
                need: vec![f16::ZERO; pool * self.experts],
                thresholds: self.thresholds(pass, layer).to_vec(),
            }),
        };
        let forward = |(pass, &(step, time, with)): (usize, &(u32, f32, bool))| ForwardRouting {
            step,
            time,
            branch: if with { Branch::Conditional } else { Branch::Unconditional },
            scale: self.refined.as_ref().filter(|r| pass < r.from).map_or(1, |r| r.scale),
            layers: (0..self.layers.len()).map(|l| layer(pass, l)).collect(),
        };
        let mut forwards: Vec<_> = self.passes.iter().enumerate().map(forward).collect();
        let order = self.order();
        let mut bytes = margins.iter().zip(gates);
        for at in 0..self.layers.len() {
            for e in 0..self.experts {
                let thresholds = self.log_odds(&order, at, e);
                for token in 0..pool {
                    let (mut margin, mut gate) = (0_i8, 0_i8);
                    for (&pass, threshold) in order.iter().zip(&thresholds) {
                        let Some((&more, &stronger)) = bytes.next() else { return forwards };
                        margin = margin.wrapping_add(more.cast_signed());
                        gate = gate.wrapping_add(stronger.cast_signed());
                        let layer = &mut forwards[pass].layers[at];
                        let taken = u64::from(margin >= 0);
                        layer.masks[token] |= taken.checked_shl(e as u32).unwrap_or(0);
                        let place = token * self.experts + e;
                        if let Some(scores) = &mut layer.scores {
                            let need = threshold + (f32::from(margin) + 0.5) * STEP;
                            scores.need[place] = f16::from_f32(need);
                            scores.gate[place] = f16::from_f32(f32::from(gate) * STEP);
                        }
                    }
                }
            }
        }
        forwards
    }
}

/// A margin: not negative where the expert took the token.
fn margin_byte(margin: f32, taken: bool) -> i8 {
    let most = MOST_MARGIN / STEP;
    // Rounding to f16 may have turned the sign of a margin next to 0.
    let byte = (margin / STEP).floor().clamp(-most - 1.0, most) as i8;
    if taken { byte.max(0) } else { byte.min(-1) }
}

/// A gate below the strongest of its token.
fn gate_byte(row: &[f16], gate: f16) -> i8 {
    let strongest = row.iter().map(|gate| gate.to_f32()).fold(f32::NEG_INFINITY, f32::max);
    ((gate.to_f32() - strongest).clamp(-MOST_GATE, 0.0) / STEP).round() as i8
}

fn scores(layer: &LayerRouting) -> &Scores {
    layer.scores.as_ref().expect("a recording has scores")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::pipeline::{Pipeline, RunState, Settings};
    use crate::trace::At;

    /// A small model; in place of `more` a refiner.
    fn document(more: &str) -> String {
        let params = |patch: u8, capacity: u8| {
            format!(
                r#""params":{{"input_size":8,"in_channels":3,"num_classes":5,"patch_size":{patch},"depth":2,"hidden_size":32,
                "num_heads":2,"learn_sigma":false,"MoE_config":{{"num_experts":4,"capacity":{capacity}}}}}"#
            )
        };
        let refiner = format!(r#","refiner":{{"from":0.5,{}}}"#, params(1, 2));
        let head = r#"{"name":"tiny","kind":"diffmoe","t_kind":"flow","space":"pixels","#;
        format!("{head}{}{}}}", params(2, 1), more.replace("REFINER", &refiner))
    }

    /// A run of two images of a small model with random weights, its samples, and its recording.
    fn recorded() -> (Vec<Vec<f32>>, Trace, Recording) {
        recorded_of(&document(""))
    }

    fn recorded_of(config: &str) -> (Vec<Vec<f32>>, Trace, Recording) {
        let checkpoint = Checkpoint::random(config, 3).unwrap();
        let pipeline = Pipeline::cpu(&checkpoint).unwrap();
        let config = pipeline.config();
        let settings = Settings::builder(config).images(2).seed(5).steps(3).guidance(2.0);
        let settings =
            settings.scheduler("heun".parse().unwrap()).record_scores(true).build().unwrap();
        let mut samples = vec![RunState::start(config, &settings, 0).latent];
        let recipe = Recipe::of(&settings, config);
        let mut run = pipeline.start(settings).unwrap();
        while !run.is_finished() {
            run.advance_with(usize::MAX, |snapshot| samples.push(snapshot.latent.clone())).unwrap();
        }
        let trace = run.trace().clone();
        let recording = Recording::of_run(recipe, config, &samples, &trace, 2).unwrap();
        (samples, trace, recording)
    }

    #[test]
    fn samples_follow_from_the_seed_and_what_was_expected() {
        let (samples, _, recording) = recorded();
        let again = recording.samples();
        assert_eq!(again.len(), samples.len());
        assert_eq!(again[0], samples[0], "the noise");
        for (ours, theirs) in again.iter().flatten().zip(samples.iter().flatten()) {
            assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
        }
    }

    #[test]
    fn a_file_keeps_who_took_what_and_the_rest_to_a_quarter() {
        for more in ["", "REFINER"] {
            keeps(&document(more));
        }
    }

    fn keeps(config: &str) {
        let (_, trace, recording) = recorded_of(config);
        let bytes = recording.to_bytes();
        let read = Recording::from_bytes(&bytes).unwrap();
        assert_eq!((read.recipe.clone(), read.size, read.images()), (recording.recipe, [8, 8], 2));
        assert_eq!(read.trace.steps(), 3);
        for forward in recording.trace.forwards() {
            for layer in 0..trace.blocks().len() {
                let at = At { step: forward.step, layer, branch: forward.branch };
                let (ours, theirs) = (read.trace.layer(at).unwrap(), trace.layer(at).unwrap());
                assert_eq!(ours.masks, theirs.masks, "the first pass of a step");
                let thresholds = |of: &LayerRouting| of.scores.clone().unwrap().thresholds;
                assert_eq!(thresholds(ours), thresholds(theirs));
                for token in 0..ours.masks.len() {
                    for e in 0..4 {
                        let margin = trace.margin(at, token, e).unwrap();
                        let near = read.trace.margin(at, token, e).unwrap();
                        assert_eq!(near > 0.0, theirs.masks[token] >> e & 1 == 1);
                        let clamped = margin.clamp(-MOST_MARGIN, MOST_MARGIN);
                        assert!((near - clamped).abs() <= 0.26, "{near} {margin}");
                    }
                    let (near, gates) = (
                        read.trace.gate_probabilities(at, token).unwrap(),
                        trace.gate_probabilities(at, token).unwrap(),
                    );
                    assert!(near.iter().zip(&gates).all(|(a, b)| (a - b).abs() < 0.07));
                }
            }
        }
        let scales = |trace: &Trace| trace.forwards().iter().map(|f| f.scale).collect::<Vec<_>>();
        assert_eq!(scales(&read.trace), scales(&recording.trace));
        for (ours, theirs) in
            read.expected.iter().flatten().zip(recording.expected.iter().flatten())
        {
            assert!((ours - theirs.clamp(-1.0, 1.0)).abs() <= 1.01 / LEVELS);
        }
        assert_eq!(read.to_bytes(), bytes, "rounded once, it stays");
    }

    #[test]
    fn other_files_and_lying_ones_are_refused() {
        let (_, _, recording) = recorded();
        let bytes = recording.to_bytes();
        assert_eq!(Recording::from_bytes(b"{}"), Err(RecordingError::Unreadable));
        for end in [8, 9, bytes.len() / 2, bytes.len() - 1] {
            assert!(matches!(
                Recording::from_bytes(&bytes[..end]),
                Err(RecordingError::Damaged(_))
            ));
        }
        let unpacked = miniz_oxide::inflate::decompress_to_vec_zlib(&bytes[8..]).unwrap();
        let text = String::from_utf8_lossy(&unpacked).into_owned();
        for (from, to) in [
            ("\"images\":2", "\"images\":3"),
            ("\"images\":2", "\"images\":9223372036854775807"),
            ("\"steps\":3", "\"steps\":0"),
            ("\"experts\":4", "\"experts\":0"),
            ("[2,0.", "[9,0."),
        ] {
            assert!(text.contains(from), "{from}");
            let length = u32::from_le_bytes(unpacked[..4].try_into().unwrap()) as usize;
            let header = String::from_utf8(unpacked[4..4 + length].to_vec()).unwrap();
            let header = header.replacen(from, to, 1);
            let mut file = (header.len() as u32).to_le_bytes().to_vec();
            file.extend(header.as_bytes());
            file.extend(&unpacked[4 + length..]);
            let packed = miniz_oxide::deflate::compress_to_vec_zlib(&file, 1);
            let read = Recording::from_bytes(&[MAGIC.as_slice(), &packed].concat());
            assert!(matches!(read, Err(RecordingError::Damaged(_))), "{to}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]
        #[test]
        fn no_bytes_make_it_panic(header in ".{0,200}", data in prop::collection::vec(any::<u8>(), 0..64)) {
            let bytes = [&(header.len() as u32).to_le_bytes()[..], header.as_bytes(), &data].concat();
            let packed = miniz_oxide::deflate::compress_to_vec_zlib(&bytes, 1);
            let _ = Recording::from_bytes(&[MAGIC.as_slice(), &packed].concat());
        }
    }
}
