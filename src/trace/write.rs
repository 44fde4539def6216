//! Writing traces as JSON and safetensors; see docs/trace-format.md.

use std::path::Path;

use half::f16;
use serde::{Serialize, Serializer};

use super::Trace;
use crate::checkpoint::{TensorOut, safetensors_bytes};
use crate::engine::{ForwardRouting, LayerRouting, Scores};
use crate::scheduler::Branch;

impl Trace {
    /// Writes the trace, as JSON or as safetensors by the file's extension.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let is_safetensors =
            path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
        let bytes =
            if is_safetensors { self.to_safetensors()? } else { self.to_json()?.into_bytes() };
        std::fs::write(path, bytes)
    }

    /// Version of the formats: 2 with scores, and 1 without, so that what read traces before reads them still.
    fn format(&self) -> u32 {
        if self.has_scores() { 2 } else { 1 }
    }

    /// The JSON form.
    ///
    /// # Errors
    /// Never in practice: the document holds only numbers and strings.
    pub fn to_json(&self) -> std::io::Result<String> {
        let forwards = self.forwards.iter().map(|forward| ForwardDocument {
            step: forward.step,
            time: forward.time,
            guided: forward.branch == Branch::Conditional,
            scale: forward.scale,
            layers: forward.layers.iter().map(|l| LayerDocument::of(l, self.experts)).collect(),
        });
        let document = Document {
            format: self.format(),
            model: &self.model,
            experts: self.experts,
            tokens_per_image: self.tokens(),
            grid: self.grid,
            labels: &self.labels,
            capacity: self.capacity(),
            capacity_by_step: self.capacity_by_step(),
            capacity_by_image: self.capacity_by_image(),
            forwards: forwards.collect(),
        };
        Ok(serde_json::to_string(&document)?)
    }

    /// The safetensors form: the bytes of a file. The same trace gives the same bytes.
    ///
    /// # Errors
    /// When passes have different layers, as they have in no run.
    pub fn to_safetensors(&self) -> std::io::Result<Vec<u8>> {
        let first = self.forwards.first().map_or(&[][..], |forward| &forward.layers);
        let blocks: Vec<u32> = first.iter().map(|layer| layer.block as u32).collect();
        let pool = first.first().map_or(0, |layer| layer.masks.len());
        let layers = || self.forwards.iter().flat_map(|f| &f.layers);
        let masks: Vec<u64> = layers().flat_map(|l| l.masks.iter().copied()).collect();
        let counts: Vec<u32> = layers().flat_map(|l| l.counts(self.experts)).collect();
        let column = |value: fn(&ForwardRouting) -> u32| -> Vec<u32> {
            self.forwards.iter().map(value).collect()
        };
        let times: Vec<f32> = self.forwards.iter().map(|f| f.time).collect();
        let (n, l, e) = (self.forwards.len(), blocks.len(), self.experts);
        let mut tensors = vec![
            masks_tensor(e, &[n, l, pool], &masks),
            TensorOut::u32("counts", &[n, l, e], &counts),
            TensorOut::u32("blocks", &[l], &blocks),
            TensorOut::u32("step", &[n], &column(|f| f.step)),
            TensorOut::u32("guided", &[n], &column(|f| u32::from(f.branch == Branch::Conditional))),
            TensorOut::f32("time", &[n], &times),
        ];
        if self.forwards.iter().any(|f| f.scale != 1) {
            tensors.push(TensorOut::u32("scale", &[n], &column(|f| f.scale)));
        }
        if self.has_scores() {
            let all = |part: fn(&Scores) -> &[f16]| -> Vec<f16> {
                let scores = layers().filter_map(|layer| layer.scores.as_ref());
                scores.flat_map(part).copied().collect()
            };
            tensors.push(TensorOut::f16("gate", &[n, l, pool, e], &all(|s| &s.gate)));
            let need = all(|s| &s.need);
            if !need.is_empty() {
                let scores = layers().filter_map(|layer| layer.scores.as_ref());
                let thresholds: Vec<f32> = scores.flat_map(|s| s.thresholds.clone()).collect();
                tensors.push(TensorOut::f16("need", &[n, l, pool, e], &need));
                let (of_first, rest) = thresholds.split_at(l * e);
                // A refiner has its own; else they are those of the run.
                tensors.push(if rest.chunks(l * e).all(|of_pass| of_pass == of_first) {
                    TensorOut::f32("thresholds", &[l, e], of_first)
                } else {
                    TensorOut::f32("thresholds", &[n, l, e], &thresholds)
                });
            }
        }
        let metadata = [
            ("format".to_owned(), self.format().to_string()),
            ("model".to_owned(), self.model.clone()),
            ("grid".to_owned(), serde_json::to_string(&self.grid)?),
            ("labels".to_owned(), serde_json::to_string(&self.labels)?),
        ];
        safetensors_bytes(&tensors, metadata)
    }
}

/// The masks in the narrowest words that have a bit for each expert.
fn masks_tensor(experts: usize, shape: &[usize], masks: &[u64]) -> TensorOut {
    if experts > 32 {
        return TensorOut::u64("masks", shape, masks);
    }
    let narrow: Vec<u32> = masks.iter().map(|&mask| mask as u32).collect();
    TensorOut::u32("masks", shape, &narrow)
}

#[derive(Serialize)]
struct Document<'a> {
    format: u32,
    model: &'a str,
    experts: usize,
    #[serde(rename = "tokens_per_picture")]
    tokens_per_image: usize,
    grid: [usize; 2],
    labels: &'a [Vec<String>],
    capacity: Option<f32>,
    capacity_by_step: Vec<f32>,
    #[serde(rename = "capacity_by_picture")]
    capacity_by_image: Vec<f32>,
    forwards: Vec<ForwardDocument<'a>>,
}

#[derive(Serialize)]
struct ForwardDocument<'a> {
    step: u32,
    time: f32,
    guided: bool,
    #[serde(skip_serializing_if = "is_one")]
    scale: u32,
    layers: Vec<LayerDocument<'a>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(scale: &u32) -> bool {
    *scale == 1
}

#[derive(Serialize)]
struct LayerDocument<'a> {
    block: usize,
    capacity: f32,
    counts: Vec<u32>,
    masks: &'a [u64],
    #[serde(flatten)]
    scores: Option<ScoreDocument<'a>>,
}

impl<'a> LayerDocument<'a> {
    fn of(layer: &'a LayerRouting, experts: usize) -> Self {
        Self {
            block: layer.block,
            capacity: layer.capacity(),
            counts: layer.counts(experts),
            masks: &layer.masks,
            scores: layer.scores.as_ref().map(|scores| ScoreDocument {
                gate: Halves(&scores.gate),
                need: Halves(&scores.need),
                thresholds: &scores.thresholds,
            }),
        }
    }
}

#[derive(Serialize)]
struct ScoreDocument<'a> {
    gate: Halves<'a>,
    need: Halves<'a>,
    /// JSON has no infinity: the threshold of a muted expert becomes null.
    thresholds: &'a [f32],
}

/// Numbers with five digits, enough to distinguish f16 values; as f32 they would have up to nine.
struct Halves<'a>(&'a [f16]);

impl Serialize for Halves<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|&value| five_digits(value)))
    }
}

fn five_digits(value: f16) -> f64 {
    let value = value.to_f64();
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    // No f16 reaches 10⁵, so the exponent is not negative. Such powers of ten are exact, so the quotient is the number
    // that the digits mean.
    let scale = 10_f64.powi(4 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::{trace, trace_with_scores};

    #[test]
    fn both_exports_hold_the_same_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let (json, tensors) = (folder.path().join("t.json"), folder.path().join("t.safetensors"));
        trace().save(&json).unwrap();
        trace().save(&tensors).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(json["format"], 1);
        assert_eq!(json["forwards"][2]["layers"][0]["counts"], serde_json::json!([1, 3, 1]));
        let bytes = std::fs::read(tensors).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let counts = file.tensor("counts").unwrap();
        assert_eq!(counts.shape(), [3, 2, 3]);
        let last_pass = [1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(counts.data()[4 * 12..], last_pass);
    }

    #[test]
    fn scores_are_where_the_description_says() {
        let trace = trace_with_scores();
        let json: serde_json::Value = serde_json::from_str(&trace.to_json().unwrap()).unwrap();
        assert_eq!(json["format"], 2);
        let bytes = trace.to_safetensors().unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for name in ["gate", "need"] {
            let view = file.tensor(name).unwrap();
            assert_eq!((view.dtype(), view.shape()), (safetensors::Dtype::F16, &[3, 2, 4, 3][..]));
            // Pass 2, layer 1, token 3, expert 2 in both.
            let place = 2 * (((2 * 2 + 1) * 4 + 3) * 3 + 2);
            let bits = [view.data()[place], view.data()[place + 1]];
            let number = json["forwards"][2]["layers"][1][name][11].as_f64().unwrap();
            assert_eq!(f16::from_f64(number), f16::from_le_bytes(bits), "{name}");
        }
        let thresholds = file.tensor("thresholds").unwrap();
        assert_eq!(thresholds.shape(), [2, 3]);
        assert_eq!(json["forwards"][1]["layers"][0]["thresholds"][2], 0.75);
        assert_eq!(bytes, trace.clone().to_safetensors().unwrap(), "every time the same");
    }

    #[test]
    fn five_digits_tell_every_f16_from_the_next() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            if value.is_finite() {
                let text = serde_json::to_string(&Halves(&[value])).unwrap();
                let number: f64 = text[1..text.len() - 1].parse().unwrap();
                assert_eq!(f16::from_f64(number), value, "{text}");
                assert!(text.len() <= 14, "{text}");
            }
        }
    }
}
