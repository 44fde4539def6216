//! The whole model in f64 and plain loops, written from the formulas: a reference that shares no code with either
//! backend. `x[r][i]` is number i of row r.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::HashMap;

use diffmoe::model::{Config, FfnForm, Kind, NormForm, Prediction, Router, RoutingRule};

type Rows = Vec<Vec<f64>>;

/// A model and its numbers by official name.
pub(crate) struct Reference<'a> {
    pub(crate) config: &'a Config,
    pub(crate) weights: &'a HashMap<String, Vec<f32>>,
    pub(crate) rule: RoutingRule,
}

impl Reference<'_> {
    fn numbers(&self, name: &str) -> Vec<f64> {
        self.weights[name].iter().map(|&v| f64::from(v)).collect()
    }

    /// `x·Wᵀ + b`, without `b` where there is none.
    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let weight = self.numbers(&format!("{name}.weight"));
        let bias = format!("{name}.bias");
        let bias = self.weights.contains_key(&bias).then(|| self.numbers(&bias));
        product(x, &weight, bias.as_deref())
    }

    /// Output `[B, C_out, h, w]`, and the experts of every token in every MoE layer as bits.
    pub(crate) fn forward(
        &self,
        sample: &[f32],
        times: &[f32],
        labels: &[Vec<u32>],
    ) -> (Vec<f64>, Vec<Vec<u64>>) {
        let c = self.config;
        let (p, [height, width]) = (c.patch_size, c.input_size);
        // Tokens of a sample, and those behind the patches, which come in later.
        let mut t = c.tokens();
        let across = width / p;
        let patches: Rows = (0..times.len() * t)
            .map(|s| {
                let (b, row, column) = (s / t, s % t / across * p, s % t % across * p);
                let pixel = |k: usize| {
                    let (channel, y, x) = (k / (p * p), row + k / p % p, column + k % p);
                    f64::from(sample[((b * c.in_channels + channel) * height + y) * width + x])
                };
                (0..c.in_channels * p * p).map(pixel).collect()
            })
            .collect();
        let mut x = self.linear("x_embedder.proj", &patches);
        let positions = if c.pos_embed { self.numbers("pos_embed") } else { Vec::new() };
        for (s, row) in x.iter_mut().enumerate().filter(|_| c.pos_embed) {
            row.iter_mut().zip(&positions[s % t * c.hidden_size..]).for_each(|(x, p)| *x += p);
        }
        let condition = self.condition(times, labels);
        let mut routes = Vec::new();
        for i in 0..c.depth {
            let block = format!("blocks.{i}");
            if let Some(context) = c.context.filter(|context| context.start == i) {
                let labels = self.labels(labels);
                let positions = self.numbers("in_context_posemb");
                let samples = x.chunks(t).zip(&labels).flat_map(|(patches, label)| {
                    let context = positions.chunks(c.hidden_size).map(|position| {
                        position.iter().zip(label).map(|(p, l)| p + l).collect::<Vec<_>>()
                    });
                    patches.iter().cloned().chain(context).collect::<Vec<_>>()
                });
                x = samples.collect();
                t += context.count;
            }
            let parts = self.linear(&format!("{block}.adaLN_modulation.1"), &condition);
            let part = |s: usize, n: usize| &parts[s / t][n * c.hidden_size..][..c.hidden_size];
            let h = self.modulated(&x, |s| [part(s, 0), part(s, 1)]);
            add_gated(&mut x, &self.attention(&format!("{block}.attn"), &h, t), |s| part(s, 2));
            let h = self.modulated(&x, |s| [part(s, 3), part(s, 4)]);
            let mlp = format!("{block}.mlp");
            let y = if c.is_moe(i) {
                // Of the first table.
                let is_null = |s: usize| labels[0][s / t] == c.labels[0].null;
                let (y, masks) = self.moe(&mlp, &h, &is_null);
                routes.push(masks);
                y
            } else {
                self.ffn(&mlp, c.ffn_form, &h)
            };
            add_gated(&mut x, &y, |s| part(s, 5));
        }
        let parts = self.linear("final_layer.adaLN_modulation.1", &condition);
        let part = |s: usize, n: usize| &parts[s / t][n * c.hidden_size..][..c.hidden_size];
        let h = self.modulated(&x, |s| [part(s, 0), part(s, 1)]);
        let of_patches: Rows = h.chunks(t).flat_map(|h| h[..c.tokens()].to_vec()).collect();
        let t = c.tokens();
        let y = self.linear("final_layer.linear", &of_patches);
        let mut out = vec![0.0; times.len() * c.output_len()];
        for (s, row) in y.iter().enumerate() {
            for (k, value) in row.iter().enumerate() {
                let (cell, channel) = (k / c.out_channels, k % c.out_channels);
                let y = s % t / across * p + cell / p;
                let x = s % t % across * p + cell % p;
                out[((s / t * c.out_channels + channel) * height + y) * width + x] = *value;
            }
        }
        if c.detail_channels > 0 {
            let (len, plane) = (c.sample_len(), c.plane());
            for ((x, z), &time) in out.chunks_mut(len).zip(sample.chunks(len)).zip(times) {
                let mut maps: Rows = x.chunks(plane).map(<[f64]>::to_vec).collect();
                maps.extend(z.chunks(plane).map(|z| z.iter().map(|&v| f64::from(v)).collect()));
                maps.push(vec![f64::from(time); plane]);
                if c.detail_phase {
                    let phase = |i: usize| (2 * (i % p) + 1) as f64 / p as f64 - 1.0;
                    maps.push((0..plane).map(|i| phase(i / width)).collect());
                    maps.push((0..plane).map(|i| phase(i % width)).collect());
                }
                let maps = map(self.convolution("detail_head.conv_in", &maps), silu);
                let maps = map(self.convolution("detail_head.conv_mid", &maps), silu);
                let maps = self.convolution("detail_head.conv_out", &maps);
                x.iter_mut().zip(maps.concat()).for_each(|(x, more)| *x += more);
            }
        }
        (out, routes)
    }

    /// 3 × 3 with a border of zeros; `x[c]` is the plane of channel c.
    fn convolution(&self, name: &str, x: &Rows) -> Rows {
        let weight = self.numbers(&format!("{name}.weight"));
        let bias = self.numbers(&format!("{name}.bias"));
        let [height, width] = self.config.input_size.map(usize::cast_signed);
        let inputs = x.len();
        let at = |x: &[f64], row: isize, column: isize| {
            let is_inside = (0..height).contains(&row) && (0..width).contains(&column);
            if is_inside { x[(row * width + column) as usize] } else { 0.0 }
        };
        let output = |o: usize| {
            let pixel = |i: isize| {
                let mut sum = bias[o];
                for (c, x) in x.iter().enumerate() {
                    for tap in 0..9 {
                        let w = weight[(o * inputs + c) * 9 + tap as usize];
                        sum += w * at(x, i / width + tap / 3 - 1, i % width + tap % 3 - 1);
                    }
                }
                sum
            };
            (0..height * width).map(pixel).collect()
        };
        (0..bias.len()).map(output).collect()
    }

    fn condition(&self, times: &[f32], labels: &[Vec<u32>]) -> Rows {
        let waves = |&time: &f32| {
            let is_reversed = self.config.prediction == Prediction::Reversed;
            let time = if is_reversed { 1.0 - f64::from(time) } else { f64::from(time) };
            let time = time * f64::from(self.config.time_scale);
            let angle = move |k: usize| time * (-(10_000_f64.ln()) * k as f64 / 128.0).exp();
            (0..128).map(|k| angle(k).cos()).chain((0..128).map(|k| angle(k).sin())).collect()
        };
        let hidden = self.linear("t_embedder.mlp.0", &times.iter().map(waves).collect());
        let mut c = self.linear("t_embedder.mlp.2", &map(hidden, silu));
        for (c, label) in c.iter_mut().zip(self.labels(labels)) {
            c.iter_mut().zip(label).for_each(|(c, l)| *c += l);
        }
        map(c, silu)
    }

    /// The sum of the rows of all tables, for each sample.
    fn labels(&self, labels: &[Vec<u32>]) -> Rows {
        let d = self.config.hidden_size;
        let mut sums = vec![vec![0.0; d]; labels.first().map_or(0, Vec::len)];
        for (table, rows) in self.config.labels.iter().zip(labels) {
            let values = self.numbers(&table.tensor);
            for (sum, &row) in sums.iter_mut().zip(rows) {
                sum.iter_mut().zip(&values[row as usize * d..]).for_each(|(s, v)| *s += v);
            }
        }
        sums
    }

    fn modulated<'a>(&self, x: &Rows, parts: impl Fn(usize) -> [&'a [f64]; 2]) -> Rows {
        modulated(x, self.config.norm, parts)
    }

    fn attention(&self, name: &str, h: &Rows, t: usize) -> Rows {
        let Config { num_heads: heads, head_dim: d, qk_norm, rope, .. } = *self.config;
        let across = self.config.grid()[1];
        let patches = self.config.tokens();
        let qkv = self.linear(&format!("{name}.qkv"), h);
        let part = |s: usize, which: usize, head: usize| -> Vec<f64> {
            let mut x = qkv[s][(which * heads + head) * d..][..d].to_vec();
            if let Some(norm) = ["q_norm", "k_norm"].get(which).filter(|_| qk_norm) {
                let weight = self.numbers(&format!("{name}.{norm}.weight"));
                let bias = match self.config.norm {
                    NormForm::Layer => self.numbers(&format!("{name}.{norm}.bias")),
                    NormForm::Rms => vec![0.0; d],
                };
                let eps = f64::from(self.config.qk_norm_eps);
                let normal = normalised(&x, self.config.norm, eps);
                x = (0..d).map(|i| normal[i] * weight[i] + bias[i]).collect();
            }
            if rope && which < 2 && s % t < patches {
                x = rotated(&x, [s % t / across, s % t % across]);
            }
            x
        };
        let mut mixed = vec![vec![0.0; heads * d]; h.len()];
        for head in 0..heads {
            let all = |which| (0..h.len()).map(|s| part(s, which, head)).collect::<Rows>();
            let [q, k, v] = [0, 1, 2].map(all);
            for (s, out) in mixed.iter_mut().enumerate() {
                let first = s / t * t;
                let scores = (first..first + t).map(|key| dot(&q[s], &k[key]) / (d as f64).sqrt());
                for (key, weight) in (first..).zip(softmax(&scores.collect::<Vec<_>>())) {
                    let out = &mut out[head * d..][..d];
                    out.iter_mut().zip(&v[key]).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
        self.linear(&format!("{name}.proj"), &mixed)
    }

    fn ffn(&self, name: &str, form: FfnForm, x: &Rows) -> Rows {
        match form {
            FfnForm::Gelu => {
                let hidden = self.linear(&format!("{name}.fc1"), x);
                self.linear(&format!("{name}.fc2"), &map(hidden, gelu))
            }
            FfnForm::Silu => {
                let hidden = self.linear(&format!("{name}.fc1"), x);
                self.linear(&format!("{name}.fc2"), &map(hidden, silu))
            }
            FfnForm::SwiGlu => {
                let gate = map(self.linear(&format!("{name}.gate_proj"), x), silu);
                let up = self.linear(&format!("{name}.up_proj"), x);
                let times =
                    |(g, u): (&Vec<f64>, &Vec<f64>)| g.iter().zip(u).map(|(g, u)| g * u).collect();
                self.linear(
                    &format!("{name}.down_proj"),
                    &gate.iter().zip(&up).map(times).collect(),
                )
            }
        }
    }

    fn moe(&self, name: &str, h: &Rows, is_null: &dyn Fn(usize) -> bool) -> (Rows, Vec<u64>) {
        let c = self.config;
        let gate = match (c.router, c.kind) {
            (Router::Prototypes { .. }, _) => "cluster_centers",
            (_, Kind::Tc) => "gate.weight",
            _ => "gate_weight",
        };
        let scores = product(h, &self.numbers(&format!("{name}.{gate}")), None);
        let (gate, masks) = match c.router {
            Router::Softmax => {
                let gate: Rows = scores.iter().map(|row| softmax(row)).collect();
                let masks = self.route(name, h, &gate);
                (gate, masks)
            }
            Router::Sigmoid { scale } => {
                let bias = self.numbers(&format!("{name}.gate.e_score_correction_bias"));
                let of = |row: &Vec<f64>| sigmoid_choice(row, &bias, c.capacity as usize, scale);
                scores.iter().map(of).unzip()
            }
            Router::Prototypes { unconditional } => {
                let lengths: Vec<f64> = self
                    .numbers(&format!("{name}.{gate}"))
                    .chunks(c.hidden_size)
                    .map(|row| dot(row, row).sqrt())
                    .collect();
                let of = |(s, row): (usize, &Vec<f64>)| {
                    let own = dot(&h[s], &h[s]).sqrt();
                    let mut cosines: Vec<f64> = row
                        .iter()
                        .zip(&lengths)
                        .map(|(score, length)| score / own / length)
                        .collect();
                    let best =
                        (0..cosines.len()).max_by(|&a, &b| cosines[a].total_cmp(&cosines[b]));
                    cosines.resize(c.num_experts, 1.0);
                    let last = c.num_experts - 1;
                    let taker = if unconditional && is_null(s) { last } else { best.unwrap() };
                    (cosines, 1 << taker)
                };
                let (gate, mut masks): (Rows, Vec<u64>) = scores.iter().enumerate().map(of).unzip();
                if c.kind == Kind::Ec {
                    let chosen = self.route(name, h, &gate);
                    let last = 1 << (c.num_experts - 1);
                    for (s, (mask, chosen)) in masks.iter_mut().zip(chosen).enumerate() {
                        let alone = unconditional && is_null(s);
                        let others = if unconditional { chosen & !last } else { chosen };
                        *mask = if alone { last } else { others };
                    }
                }
                (gate, masks)
            }
        };
        let mut y = if c.shared_hidden > 0 {
            self.ffn(&format!("{name}.shared_experts"), c.shared_form, h)
        } else {
            vec![vec![0.0; c.hidden_size]; h.len()]
        };
        for e in 0..c.num_experts {
            let out = self.ffn(&format!("{name}.experts.{e}"), c.expert_form, h);
            let rows = y.iter_mut().zip(&out).zip(gate.iter().zip(&masks));
            for ((y, out), (gate, _)) in rows.filter(|(_, (_, mask))| **mask >> e & 1 == 1) {
                y.iter_mut().zip(out).for_each(|(y, o)| *y += gate[e] * o);
            }
        }
        (y, masks)
    }

    fn route(&self, name: &str, h: &Rows, gate: &Rows) -> Vec<u64> {
        let c = self.config;
        let mut masks = vec![0; h.len()];
        let best = |range: std::ops::Range<usize>, count: usize, e: usize| {
            let mut order: Vec<usize> = range.collect();
            order.sort_by(|&a, &b| gate[b][e].total_cmp(&gate[a][e]));
            order.truncate(count);
            order
        };
        match c.kind {
            Kind::Dense => {}
            Kind::Tc => {
                for (mask, row) in masks.iter_mut().zip(gate) {
                    let mut order: Vec<usize> = (0..c.num_experts).collect();
                    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
                    *mask = order[..c.capacity as usize].iter().map(|e| 1 << e).sum();
                }
            }
            Kind::Ec => {
                let t = c.tokens();
                let choosers = match c.router {
                    Router::Prototypes { unconditional: true } => c.num_experts - 1,
                    _ => c.num_experts,
                };
                let count = (t as f64 / choosers as f64 * c.capacity) as usize;
                let count = if c.router == Router::Softmax { count } else { count.max(1) };
                for e in 0..c.num_experts {
                    for first in (0..h.len()).step_by(t) {
                        for s in best(first..first + t, count, e) {
                            masks[s] |= 1 << e;
                        }
                    }
                }
            }
            Kind::DiffMoe => {
                let hidden = map(self.linear(&format!("{name}.capacity_predictor.0"), h), silu);
                let logits = self.linear(&format!("{name}.capacity_predictor.2"), &hidden);
                let thresholds = self.numbers(&format!("{name}.expert_threshold"));
                let above =
                    |s: usize, e: usize| 1.0 / (1.0 + (-logits[s][e]).exp()) > thresholds[e];
                for e in 0..c.num_experts {
                    let wanted: Vec<usize> = (0..h.len()).filter(|&s| above(s, e)).collect();
                    let taken = match self.rule {
                        RoutingRule::Pool => best(0..h.len(), wanted.len(), e),
                        RoutingRule::Token => wanted,
                    };
                    for s in taken {
                        masks[s] |= 1 << e;
                    }
                }
            }
        }
        masks
    }
}

/// Weights and experts of a token under a sigmoid router.
fn sigmoid_choice(scores: &[f64], bias: &[f64], count: usize, scale: f32) -> (Vec<f64>, u64) {
    let weight: Vec<f64> = scores.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| (weight[b] + bias[b]).total_cmp(&(weight[a] + bias[a])));
    order.truncate(count);
    let sum = if count > 1 { order.iter().map(|&e| weight[e]).sum() } else { 1.0 };
    let scaled = weight.iter().map(|w| w * f64::from(scale) / sum).collect();
    (scaled, order.iter().map(|e| 1 << e).sum())
}

/// A query or key at a row and a column: its halves turn with one of them each, in pairs a quarter apart.
fn rotated(x: &[f64], position: [usize; 2]) -> Vec<f64> {
    let quarter = x.len() / 4;
    let mut out = x.to_vec();
    for (half, at) in position.into_iter().enumerate() {
        for i in 0..quarter {
            let angle = at as f64 * 10_000_f64.powf(-(i as f64) / quarter as f64);
            let (sin, cos) = angle.sin_cos();
            let first = half * 2 * quarter + i;
            let (a, b) = (x[first], x[first + quarter]);
            out[first] = a * cos - b * sin;
            out[first + quarter] = a * sin + b * cos;
        }
    }
    out
}

fn product(x: &Rows, weight: &[f64], bias: Option<&[f64]>) -> Rows {
    let row = |x: &Vec<f64>| {
        let outputs = weight.chunks_exact(x.len()).map(|w| dot(x, w));
        outputs.enumerate().map(|(o, sum)| sum + bias.map_or(0.0, |b| b[o])).collect()
    };
    x.iter().map(row).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn map(rows: Rows, f: fn(f64) -> f64) -> Rows {
    rows.into_iter().map(|row| row.into_iter().map(f).collect()).collect()
}

fn silu(z: f64) -> f64 {
    z / (1.0 + (-z).exp())
}

fn gelu(z: f64) -> f64 {
    0.5 * z * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3))).tanh())
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

fn normalised(x: &[f64], form: NormForm, eps: f64) -> Vec<f64> {
    let mean = match form {
        NormForm::Layer => x.iter().sum::<f64>() / x.len() as f64,
        NormForm::Rms => 0.0,
    };
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
    x.iter().map(|v| (v - mean) / (variance + eps).sqrt()).collect()
}

/// `LN(x)·(1 + scale) + shift`, with (shift, scale) of each row.
fn modulated<'a>(x: &Rows, norm: NormForm, parts: impl Fn(usize) -> [&'a [f64]; 2]) -> Rows {
    let row = |(s, x): (usize, &Vec<f64>)| {
        let [shift, scale] = parts(s);
        let normal = normalised(x, norm, 1e-6);
        normal
            .iter()
            .zip(shift)
            .zip(scale)
            .map(|((n, shift), scale)| n * (1.0 + scale) + shift)
            .collect()
    };
    x.iter().enumerate().map(row).collect()
}

fn add_gated<'a>(x: &mut Rows, y: &Rows, gate: impl Fn(usize) -> &'a [f64]) {
    for (s, (x, y)) in x.iter_mut().zip(y).enumerate() {
        x.iter_mut().zip(y).zip(gate(s)).for_each(|((x, y), g)| *x += g * y);
    }
}
