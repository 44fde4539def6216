//! The embedded answers of the probes, computed again in f64; and what the probes make of wrong kernels.
//!
//! `ANSWERS_WRITE=1 cargo test -p diffmoe --lib probes` writes them anew, for new probes.

use std::collections::BTreeMap;

use super::decoder::{BLOCK, EPS, MAP, SCORES};
use super::detail::CONVOLUTION;
use super::experts::{POOL, counts, lists};
use super::latents::{DENOISING, LEVEL, SAMPLE, SHIFT, kept};
use super::model::{
    CONTEXT, HEADS, IMAGE, LABEL_ROWS, LABEL_SHARES, OUTPUTS, ROWS, SPANS, WIDTH, linear_bias,
    modulation, uneven_rows,
};
use super::numbers::{SAMPLES, numbers, shares};
use super::routing::{ALONE, CHOICE, LABELLED, SCORED, SELECTED, SELECTIONS, THRESHOLDS, cosines};
use super::*;
use crate::gpu::testing::PROFILES;
use crate::gpu::{GpuOptions, Profile, Sabotage};
use crate::kernels::expert_linear::{ReferenceForm, reference as expert_row};
use crate::kernels::planes::{from_quads, to_quads};
use crate::kernels::{
    combine_experts, conv2d, group_norm, rotate_heads, route_prototypes, route_score, route_select,
};

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn silu(z: f64) -> f64 {
    z / (1.0 + (-z).exp())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Rows without mean and with variance 1.
fn normal(x: &[f64], width: usize, eps: f64) -> Vec<f64> {
    let row = |row: &[f64]| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / row.len() as f64;
        row.iter().map(|v| (v - mean) / (variance + eps).sqrt()).collect::<Vec<_>>()
    };
    x.chunks(width).flat_map(row).collect()
}

/// `n·(1 + scale) + shift`, with shift and scale in the second and third part of the columns.
fn modulated(normal: &[f64], m: &[f64], width: usize) -> Vec<f64> {
    let tokens = normal.len() / width / SAMPLES;
    let at = |i: usize| (i / width / tokens * 3 * width, i % width);
    let value = |(i, v): (usize, &f64)| {
        let (row, c) = at(i);
        v * (1.0 + m[row + 2 * width + c]) + m[row + width + c]
    };
    normal.iter().enumerate().map(value).collect()
}

fn product(x: &[f64], w: &[f64], bias: &[f64], inputs: usize) -> Vec<f64> {
    let row = |x: &[f64]| {
        let sums = w.chunks(inputs).zip(bias).map(|(w, b)| dot(x, w) + b);
        sums.collect::<Vec<_>>()
    };
    x.chunks(inputs).flat_map(row).collect()
}

/// `queries` have `columns` numbers a row, `memory` has twice or three times `width` with the keys from `first` on.
fn attention(
    queries: (&[f64], usize),
    memory: (&[f64], usize, usize),
    spans: &[[u32; 2]],
    tokens: usize,
) -> Vec<f64> {
    let [heads, d] = HEADS;
    let (memory, stride, first) = memory;
    let mut y = Vec::new();
    for (b, &[from, count]) in spans.iter().enumerate() {
        for (t, h) in (0..tokens).flat_map(|t| (0..heads).map(move |h| (t, h))) {
            let q = &queries.0[(b * tokens + t) * queries.1 + h * d..][..d];
            let rows = from as usize..(from + count) as usize;
            let part = |row: usize, at: usize| &memory[row * stride + at + h * d..][..d];
            let scores = rows.clone().map(|row| dot(q, part(row, first)) / (d as f64).sqrt());
            let weights: Vec<_> = scores.map(f64::exp).collect();
            let total: f64 = weights.iter().sum();
            y.extend((0..d).map(|i| {
                let values = rows.clone().map(|row| part(row, first + heads * d)[i]);
                values.zip(&weights).map(|(v, w)| v * w / total).sum::<f64>()
            }));
        }
    }
    y
}

/// All answers by name: words of f32, or integers.
fn all() -> BTreeMap<&'static str, Vec<u32>> {
    let mut all = BTreeMap::new();
    let mut words = |name: &'static str, words: Vec<u32>| {
        let places = Output::places(0..words.len()).map(|i| words[i]);
        assert!(all.insert(name, places.collect()).is_none(), "{name} twice");
    };

    let width = HEADS[0] * HEADS[1];
    let qkv = wide(&numbers(2 * 40 * 3 * width, 1, 2.0));
    let own = [[0, 40], [40, 40]];
    let (own, stride) =
        (attention((&qkv, 3 * width), (&qkv, 3 * width, width), &own, 40), 2 * width);
    words("attention", floats(&own));
    let queries = wide(&numbers(2 * 9 * width, 2, 2.0));
    let memory = wide(&numbers(20 * 2 * width, 3, 2.0));
    let seen = attention((&queries, width), (&memory, stride, 0), &SPANS, 9);
    words("attention to a memory", floats(&seen));

    let [heads, d] = HEADS;
    let affine = wide(&numbers(4 * d, 4, 1.0));
    let before = wide(&numbers(7 * 3 * width, 5, 3.0));
    let norms = normal(&before, d, 1e-5).into_iter().enumerate().map(|(i, v)| {
        let part = i / width % 3;
        let at = 2 * part * d + i % d;
        if part == 2 { before[i] } else { v * affine[at] + affine[at + d] }
    });
    assert_eq!(heads * d, width);
    words("head_norm", floats(&norms.collect::<Vec<_>>()));

    let (qkv, angles) = (numbers(10 * 3 * width, 15, 3.0), numbers(5 * d, 14, 1.0));
    words("rotate_heads", floats(&rotate_heads::reference(&qkv, &angles, [5, heads, d])));

    let rows = normal(&wide(&uneven_rows()), WIDTH, 1e-6);
    let rows = modulated(&rows, &wide(&modulation()), WIDTH);
    words("modulate", floats(&rows));
    let weights = wide(&Exact::new(OUTPUTS, WIDTH, 9).values());
    let bias = wide(&linear_bias());
    let y = product(&wide(&numbers(ROWS * WIDTH, 8, 1.0)), &weights, &bias, WIDTH);
    words("linear", floats(&y.into_iter().map(silu).collect::<Vec<_>>()));
    let residual = wide(&numbers(ROWS * OUTPUTS, 11, 1.0));
    let y = product(&rows, &weights, &bias, WIDTH).into_iter().zip(residual);
    words("linear_normal", floats(&y.map(|(y, r)| y + r).collect::<Vec<_>>()));

    experts(&mut words);
    let [s, e, d, _] = POOL;
    let taken = counts().iter().sum::<u32>() as usize;
    let m = numbers(SAMPLES * 3 * d, 33, 1.0);
    let gate: Vec<f32> = m.chunks(3 * d).flat_map(|row| row[..d].to_vec()).collect();
    let inputs = combine_experts::Inputs {
        gate: &shares(s * e, 31),
        lists: &lists(),
        y: &numbers(taken * d, 32, 1.0),
        gate_mlp: &gate,
        x: &numbers(s * d, 30, 1.0),
    };
    let x = combine_experts::reference(inputs, SAMPLES);
    words("combine_experts", floats(&x));
    words("combine_experts, norm", floats(&modulated(&normal(&x, d, 1e-6), &wide(&m), d)));
    let took = |token: u32| {
        let bits = lists().into_iter().enumerate().filter(|(_, list)| list.contains(&token));
        bits.map(|(e, _)| 1 << e).sum()
    };
    words("masks", (0..s as u32).map(took).collect());

    routers(&mut words);

    condition(&mut words);
    patches(&mut words);
    let ids = (0..ROWS).map(|row| 7 * row % 11);
    let (table, positions) = (numbers(11 * WIDTH, 90, 1.0), numbers(5 * WIDTH, 91, 1.0));
    let embedded = ids.enumerate().flat_map(|(row, id)| {
        let [token, place] = [(&table, id), (&positions, row % 5)];
        let pairs = token.0[token.1 * WIDTH..][..WIDTH].iter().zip(&place.0[place.1 * WIDTH..]);
        pairs.map(|(a, b)| a + b).collect::<Vec<_>>()
    });
    words("embed_tokens", copies(&embedded.collect::<Vec<_>>()));

    solvers(&mut words);
    maps(&mut words);
    all
}

fn routers(words: &mut impl FnMut(&'static str, Vec<u32>)) {
    let [s, _, d, _] = POOL;
    let inputs = route_score::Inputs {
        x: &numbers(s * d, 40, 1.0),
        gate_weight: &numbers(SCORED * d, 42, 0.5),
        hidden: &numbers(s * d, 41, 1.0),
        weight: &numbers(SCORED * d, 43, 0.5),
        bias: &numbers(SCORED, 44, 0.5),
    };
    let (gate, need) = route_score::reference(inputs, d);
    words("gate", floats(&gate));
    let choice = (CHOICE.0, f64::from(CHOICE.1));
    let bias = numbers(SCORED, 44, 0.5);
    let (chosen, _) = route_score::reference_choice(inputs.x, inputs.gate_weight, &bias, choice);
    words("sigmoid router", floats(&chosen));
    let (rows, null) = LABELLED;
    let alone: Vec<bool> = (0..s).map(|token| rows[token * rows.len() / s] == null).collect();
    let prototypes = numbers((SCORED - 1) * d, 42, 0.5);
    let (nearest, scores) = route_prototypes::reference(inputs.x, &prototypes, d, &alone);
    words("prototype router", floats(&nearest));
    words("prototype router, scores", floats(&scores));
    words("need", floats(&need));
    let [s, e] = SELECTED;
    let lists = route_select::reference(&cosines(), &[], &THRESHOLDS, e, ALONE);
    words("counts, alone", lists.iter().map(|list| list.len() as u32).collect());
    words("positions, alone", route_select::reference_positions(&lists, s));
    let (gate, need) = (shares(s * e, 50), shares(s * e, 51));
    for (count_name, place_name, selection) in SELECTIONS {
        let lists = route_select::reference(&gate, &need, &THRESHOLDS, e, selection);
        words(count_name, lists.iter().map(|list| list.len() as u32).collect());
        words(place_name, route_select::reference_positions(&lists, s));
    }
}

fn floats(values: &[f64]) -> Vec<u32> {
    values.iter().map(|&v| (v as f32).to_bits()).collect()
}

fn copies(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn condition(words: &mut impl FnMut(&'static str, Vec<u32>)) {
    let time = wide(&numbers(SAMPLES * WIDTH, 60, 2.0));
    let labels = wide(&numbers(5 * WIDTH, 61, 1.0));
    let label = |sample: usize, column: usize| {
        let value = |row: u32| labels[row as usize * WIDTH + column];
        let of_table = |table: usize| {
            let at = table * SAMPLES + sample;
            let share = f64::from(LABEL_SHARES[at]);
            let [row, other] = [at, LABEL_SHARES.len() + at].map(|at| value(LABEL_ROWS[at]));
            (1.0 - share) * row + share * other
        };
        (0..2).map(of_table).sum::<f64>()
    };
    let condition = time.iter().enumerate();
    let condition = condition.map(|(i, t)| silu(t + label(i / WIDTH, i % WIDTH)));
    words("conditioning", floats(&condition.collect::<Vec<_>>()));
    let [tokens, context] = CONTEXT;
    let mut x = wide(&numbers(SAMPLES * (tokens + context) * WIDTH, 65, 1.0));
    let positions = wide(&numbers(context * WIDTH, 66, 1.0));
    for (sample, x) in x.chunks_mut((tokens + context) * WIDTH).enumerate() {
        for (i, x) in x[tokens * WIDTH..].iter_mut().enumerate() {
            *x = positions[i] + label(sample, i % WIDTH);
        }
    }
    words("embed_context", floats(&x));
}

fn experts(words: &mut impl FnMut(&'static str, Vec<u32>)) {
    let [s, e, d, m] = POOL;
    let (tokens, rows) = (numbers(s * d, 20, 1.0), numbers(e * s * m, 21, 1.0));
    let (bias, down_bias) = (numbers(e * m, 22, 1.0), numbers(e * d, 25, 1.0));
    let (up, down) = (Exact::new(e * m, d, 24).values(), Exact::new(e * d, m, 23).values());
    let (mut hidden, mut output, mut row) = (Vec::new(), Vec::new(), 0);
    for (i, list) in lists().iter().enumerate() {
        let [up, down] = [&up, &down].map(|w| &w[i * m * d..][..m * d]);
        for &token in list {
            let x = &tokens[token as usize * d..][..d];
            hidden.extend(expert_row(ReferenceForm::Gelu, x, up, &[], &bias[i * m..][..m]));
            let x = &rows[row * m..][..m];
            let bias = &down_bias[i * d..][..d];
            output.extend(expert_row(ReferenceForm::Linear, x, down, &[], bias));
            row += 1;
        }
    }
    words("experts, up", floats(&hidden));
    words("experts, down", floats(&output));
}

fn patches(words: &mut impl FnMut(&'static str, Vec<u32>)) {
    let [samples, channels, height, width, p] = IMAGE;
    let len = samples * channels * height * width;
    let columns = channels * p * p;
    let (x, rows) = (numbers(len, 62, 1.0), height / p * (width / p) + 1);
    let tokens = wide(&numbers(samples * rows * WIDTH, 63, 1.0));
    let weights = wide(&Exact::new(columns, WIDTH, 67).values());
    let vectors = product(&tokens, &weights, &wide(&numbers(columns, 64, 1.0)), WIDTH);
    let (mut cut, mut back) = (vec![0.0; len], vec![0.0; len]);
    for (i, value) in x.iter().enumerate() {
        let (b, c) = (i / (channels * height * width), i / (height * width) % channels);
        let (row, column) = (i / width % height, i % width);
        let token = row / p * (width / p) + column / p;
        cut[(b * (rows - 1) + token) * columns + (c * p + row % p) * p + column % p] = *value;
        let of_token = &vectors[(b * rows + token) * columns..][..columns];
        back[i] = of_token[(row % p * p + column % p) * channels + c];
    }
    words("patches", copies(&cut));
    words("pixels", floats(&back));
}

fn solvers(words: &mut impl FnMut(&'static str, Vec<u32>)) {
    let stride = 2 * SAMPLE;
    let latents = wide(&numbers(3 * SAMPLES * stride, 70, 1.0));
    let factors = wide(&numbers(8, 71, 1.0));
    let sum = |i: usize| -> f64 {
        let at = i / SAMPLE * stride + i % SAMPLE;
        (0..3).map(|term| factors[term] * latents[term * SAMPLES * stride + at]).sum()
    };
    words("combine_latents", floats(&(0..SAMPLES * SAMPLE).map(sum).collect::<Vec<_>>()));
    let slot = SAMPLES * SAMPLE;
    let [image, noise, mask] = kept().map(|values| wide(&values));
    let [signal, noisy] = LEVEL.map(f64::from);
    let before = wide(&numbers(slot, 76, 1.0));
    let value =
        |i: usize| mask[i] * before[i] + (1.0 - mask[i]) * (signal * image[i] + noisy * noise[i]);
    words("keep_image", floats(&(0..slot).map(value).collect::<Vec<_>>()));
    let (by, [height, width]) = SHIFT;
    let mut images = numbers(4 * height * width, 79, 1.0);
    let (input, output) = images.split_at_mut(2 * height * width);
    for (at, x) in output.iter_mut().enumerate() {
        let [plane, row, column] = [at / width / height, at / width % height, at % width];
        let (y, x_of) = ((row + height - by[0]) % height, (column + width - by[1]) % width);
        *x = input[(plane * height + y) * width + x_of];
    }
    words("shift_image", copies(&images));
    let latents = wide(&numbers(5 * slot, 72, 1.0));
    let noise = wide(&numbers(slot, 73, 1.0));
    let [guidance, latent, predicted_noise, start, kept, low, high] = [
        DENOISING.guidance,
        DENOISING.predict_latent,
        DENOISING.predict_noise,
        DENOISING.mean_start,
        DENOISING.mean_latent,
        DENOISING.low,
        DENOISING.high,
    ]
    .map(f64::from);
    let step = |i: usize| {
        let at = i / SAMPLE * 2 * SAMPLE + i % SAMPLE;
        let (asked, plain) = (latents[slot + at], latents[3 * slot + at]);
        let predicted = plain + guidance * (asked - plain);
        let clean = (latent * latents[i] - predicted_noise * predicted).clamp(-1.0, 1.0);
        let share = f64::midpoint(latents[slot + at + SAMPLE], 1.0);
        let deviation = (0.5 * (share * high + (1.0 - share) * low)).exp();
        start * clean + kept * latents[i] + deviation * noise[i]
    };
    words("denoise", floats(&(0..slot).map(step).collect::<Vec<_>>()));
}

/// Feature maps.
fn maps(words: &mut impl FnMut(&'static str, Vec<u32>)) {
    let [inputs, outputs, height, width] = CONVOLUTION;
    let pixels = height * width;
    let given = conv2d::Inputs {
        x: &from_quads(&numbers(inputs * pixels, 80, 1.0), inputs, pixels),
        weights: &Exact::new(outputs, inputs * 9, 81).values(),
        bias: &numbers(outputs, 82, 1.0),
        size: 3,
        from: [height, width],
        enlarge: false,
    };
    let y: Vec<f32> = conv2d::reference(given).into_iter().map(|z| silu(z) as f32).collect();
    words("conv2d", copies(&to_quads(&y, pixels)));

    let (channels, plane) = (3, SAMPLE);
    let len = SAMPLES * channels * plane;
    let latents = numbers(2 * len, 83, 1.0);
    let mut joined = Vec::new();
    for (c, b) in (0..8).flat_map(|c| (0..SAMPLES).map(move |b| (c, b))) {
        joined.extend((0..plane).map(|p| match c {
            0..3 => latents[(b * channels + c) * plane + p],
            3..6 => latents[len + (b * channels + c - 3) * plane + p],
            6 => [0.25, 0.75][b],
            _ => 0.0,
        }));
    }
    words("detail_pixels, joined", copies(&to_quads(&joined, SAMPLES * plane)));
    let doubled = |(i, v): (usize, &f32)| if i < len { 2.0 * v } else { *v };
    words(
        "detail_pixels, added",
        copies(&latents.iter().enumerate().map(doubled).collect::<Vec<_>>()),
    );

    let [channels, group, pixels] = MAP;
    let x = from_quads(&numbers(channels * pixels, 100, 2.0), channels, pixels);
    let weights = numbers(2 * channels, 101, 1.0);
    let y = group_norm::reference(&x, &weights, group, EPS.into(), true);
    let y: Vec<f32> = y.into_iter().map(|v| v as f32).collect();
    words("group_norm", copies(&to_quads(&y, pixels)));
    let [rows, columns, stride] = SCORES;
    let mut scores = wide(&numbers(rows * stride, 102, 20.0));
    for row in scores.chunks_mut(stride) {
        row[columns..].fill(f64::NEG_INFINITY);
        for v in row.iter_mut() {
            *v = (0.5 * *v).exp();
        }
        let sum: f64 = row.iter().sum();
        for v in row.iter_mut() {
            *v /= sum;
        }
    }
    words("softmax", floats(&scores));
    let [first, rows] = BLOCK;
    let mut picture = from_quads(&numbers(channels * pixels, 103, 1.0), channels, pixels);
    let mut taken = Vec::new();
    for (r, c) in (0..rows).flat_map(|r| (0..channels).map(move |c| (r, c))) {
        if first + r < pixels {
            let pixel = &mut picture[c * pixels + first + r];
            taken.push(*pixel);
            *pixel *= 2.0;
        } else {
            taken.push(0.0);
        }
    }
    words("pixel_rows, rows", copies(&taken));
    words("pixel_rows, added", copies(&to_quads(&picture, pixels)));
}

#[test]
fn the_embedded_answers_are_those_of_the_references() {
    let all = all();
    if std::env::var_os("ANSWERS_WRITE").is_some() {
        let mut file = Vec::new();
        for (name, words) in &all {
            file.push(name.len() as u8);
            file.extend(name.as_bytes());
            file.extend((words.len() as u32).to_le_bytes());
            file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels/probes");
        return std::fs::write(folder.join("answers.bin"), file).unwrap();
    }
    assert!(answers().len() < 20_000, "{} bytes", answers().len());
    for (name, want) in all {
        let got = answers_of(name);
        assert_eq!(got.len(), want.len(), "{name}");
        for (got, want) in got.into_iter().zip(want) {
            let [a, b] = [got, want].map(f32::from_bits);
            // exp and tanh of two systems may round differently.
            assert!(got == want || (a - b).abs() <= 1e-5 * b.abs(), "{name}: {a}, {b}");
        }
    }
}

/// A device, of which a test may have broken something.
fn device(profile: Profile, shader: Option<Alter>) -> Gpu {
    let sabotage = Sabotage { shader, ..Sabotage::default() };
    let profile = Some(profile);
    Gpu::headless_with(GpuOptions { profile, sabotage, ..GpuOptions::default() }).unwrap()
}

fn findings(gpu: &Gpu) -> Vec<Finding> {
    pollster::block_on(check(gpu, &Kernels::all())).unwrap()
}

#[test]
fn every_kernel_passes_in_both_variants() {
    for profile in PROFILES {
        let findings = findings(&device(profile, None));
        for finding in &findings {
            assert!(finding.passes(), "{profile:?}: {finding:?}");
            // Far from the limit, so that no correct device is refused.
            assert!(finding.error <= TOLERANCE / 10.0, "{profile:?}: {finding:?}");
        }
        // Every kernel of a tape is among them.
        let seen: String = findings.iter().map(|finding| finding.kernel.clone() + " ").collect();
        for source in crate::kernels::all_sources() {
            let name = source.shader.name.trim_end_matches("_software");
            let is_missing = name == "linear_normal" && profile == Profile::Software;
            let is_known = seen.contains(name) || is_missing || name == "samples_to_texture";
            assert!(is_known, "{name} has no probe");
        }
    }
}

/// Another text in the place of a shader's.
type Alter = fn(&str, &str) -> Option<String>;

#[test]
fn kernels_that_do_nothing_are_noticed_one_and_all() {
    // No output is left as its probe made it, and no answer is what was there before.
    let idle: Alter = |_, text| {
        let main = text.find("fn main(")?;
        let body = main + text[main..].find(") {")? + 3;
        Some(format!("{}\n if true {{ return; }}\n{}", &text[..body], &text[body..]))
    };
    for profile in PROFILES {
        for finding in findings(&device(profile, Some(idle))) {
            assert!(!finding.passes(), "{profile:?}: {finding:?}");
        }
    }
}

#[test]
fn a_wrong_kernel_is_named_and_the_others_pass() {
    const FAULTS: [(&str, Alter); 4] = [
        ("softmax", |name, text| {
            (name == "softmax").then(|| text.replace("* factor;", "* factor * 1.001;"))
        }),
        ("modulate", |name, text| (name == "modulate").then(|| text.replace("+ 1e-6", "+ 9.0"))),
        ("linear, ", |name, text| {
            let without_silu = || text.replace("params.activation == 0u", "params.activation < 2u");
            (name == "linear").then(without_silu)
        }),
        ("pass_inputs, patches", |name, text| {
            let wrong = || text.replace("+ k % p;", "+ k % p ^ 1u;");
            (name == "pass_inputs").then(wrong)
        }),
    ];
    for (kernel, fault) in FAULTS {
        for finding in findings(&device(Profile::Gpu, Some(fault))) {
            assert_eq!(!finding.passes(), finding.kernel.starts_with(kernel), "{finding:?}");
        }
    }
}
