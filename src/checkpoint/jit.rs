//! The layout of JiT (arXiv 2511.13720) and JiTMoE (arXiv 2512.01252), and how the tensors of this program's layout
//! follow from theirs.
//!
//! - Norms have weights: `(1 + s) ⊙ w = 1 + s'` moves them into the layer that makes the scale `s`.
//! - `SwiGLU` networks hold gate and up projection in one matrix, `w12`.
//! - Patches are embedded by two matrices without anything between them: one is their product.
//! - Rotary positions turn neighbours, numbers `2i` and `2i + 1` of half a head, where this program turns `i` and
//!   `i + d/4`: rows of queries and keys change places, which no product of the two notices.
//! - Networks of a width that is no multiple of four (2,730 of JiT-L) get hidden numbers that are always 0, as kernels read
//!   four at a time.
//! - Angles of rotations are stored; they follow from the configuration.

use std::collections::BTreeMap;

use super::error::CheckpointError;
use super::foreign::is_jit;

/// Names and shapes of tensors.
type Shapes = BTreeMap<String, Vec<usize>>;

/// Layers of a `SwiGLU` network: this program's name, that of JiT, and which half of its rows.
const NETWORK: [(&str, &str, Option<usize>); 3] = [
    (".gate_proj.", ".w12.", Some(0)),
    (".up_proj.", ".w12.", Some(1)),
    (".down_proj.", ".w3.", None),
];

/// More would not be a head.
const WIDEST_HEAD: usize = 1 << 12;

/// A file in this layout.
#[derive(Debug)]
pub(super) struct JitLayout {
    /// In this program's layout.
    shapes: Shapes,
    /// Width of a head.
    head: usize,
}

impl JitLayout {
    /// The layout of a file with these tensors; `None` for another.
    pub(super) fn of(theirs: &Shapes) -> Option<Self> {
        if !is_jit(theirs.keys().map(String::as_str)) {
            return None;
        }
        let head = theirs.get("blocks.0.attn.q_norm.weight").and_then(|shape| shape.first());
        let mut shapes = Shapes::new();
        for (name, shape) in theirs {
            if is_folded(name) {
                continue;
            }
            if let Some(layer) = name.strip_prefix("x_embedder.proj") {
                match layer {
                    "1.weight" => {
                        // [K, C, p, p] after [D, K, 1, 1].
                        let outputs = theirs.get("x_embedder.proj2.weight").and_then(|s| s.first());
                        let rest = shape.iter().skip(1);
                        let whole = outputs.into_iter().chain(rest).copied().collect();
                        shapes.insert("x_embedder.proj.weight".into(), whole);
                    }
                    "2.bias" => drop(shapes.insert("x_embedder.proj.bias".into(), shape.clone())),
                    "2.weight" => {}
                    _ => drop(shapes.insert(name.clone(), shape.clone())),
                }
                continue;
            }
            let layers: Vec<_> =
                NETWORK.iter().filter(|(_, theirs, _)| name.contains(theirs)).collect();
            for (ours, theirs, half) in &layers {
                shapes.insert(name.replace(theirs, ours), padded(shape, half.is_some()));
            }
            if layers.is_empty() {
                shapes.insert(name.clone(), shape.clone());
            }
        }
        let head = head.copied().filter(|&head| head <= WIDEST_HEAD);
        Some(Self { shapes, head: head.unwrap_or(0) })
    }

    /// Names and shapes in this program's layout.
    pub(super) fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// A tensor of this program's layout, from those of the file.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn read(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<Vec<f32>, CheckpointError>,
    ) -> Result<Vec<f32>, CheckpointError> {
        match name {
            "x_embedder.proj.weight" => {
                let [first, second] =
                    ["proj1", "proj2"].map(|layer| read(&format!("x_embedder.{layer}.weight")));
                return Ok(product(&second?, &first?, self.shapes.get(name)));
            }
            "x_embedder.proj.bias" => return read("x_embedder.proj2.bias"),
            _ => {}
        }
        if let Some((ours, theirs, half)) = NETWORK.iter().find(|(ours, ..)| name.contains(ours)) {
            let mut values = read(&name.replace(ours, theirs))?;
            let shape = self.shapes.get(name).map_or(&[][..], Vec::as_slice);
            let Some(half) = half else { return Ok(widened(&values, shape)) };
            let middle = values.len() / 2;
            values.rotate_left(half * middle);
            values.truncate(middle);
            values.resize(shape.iter().product(), 0.0);
            return Ok(values);
        }
        let mut values = read(name)?;
        if let Some(owner) = name.strip_suffix(".adaLN_modulation.1.weight") {
            for (part, parts, norm) in norms_of(owner) {
                let rows = part_of(&mut values, part, parts);
                let norm = read(&norm)?;
                let width = rows.len() / norm.len().max(1);
                for (row, &weight) in rows.chunks_mut(width.max(1)).zip(&norm) {
                    for value in row {
                        *value *= weight;
                    }
                }
            }
        } else if let Some(owner) = name.strip_suffix(".adaLN_modulation.1.bias") {
            for (part, parts, norm) in norms_of(owner) {
                let norm = read(&norm)?;
                let shifts = part_of(&mut values, part, parts).iter_mut().zip(&norm);
                shifts.for_each(|(value, &weight)| *value = moved(*value, weight));
            }
        } else if name.ends_with(".attn.q_norm.weight") || name.ends_with(".attn.k_norm.weight") {
            values = self.turned(&values, 1);
        } else if name.contains(".attn.qkv.") {
            // Queries and keys are the first two thirds.
            let width = match self.shapes.get(name).map(Vec::as_slice) {
                Some(&[_, width]) => width,
                _ => 1,
            };
            let end = values.len() / 3 * 2;
            let turned = self.turned(&values[..end], width);
            values.iter_mut().zip(turned).for_each(|(value, turned)| *value = turned);
        }
        Ok(values)
    }

    /// Rows of `width` numbers, head by head in the order of this program's rotations.
    fn turned(&self, values: &[f32], width: usize) -> Vec<f32> {
        let quarter = self.head / 4;
        let order: Vec<usize> = (0..self.head)
            .map(|i| {
                let (half, i) = (i / (2 * quarter).max(1), i % (2 * quarter).max(1));
                2 * quarter * half + 2 * (i % quarter.max(1)) + i / quarter.max(1)
            })
            .collect();
        let heads = values.chunks(self.head.max(1) * width.max(1));
        heads
            .flat_map(|head| {
                order.iter().flat_map(move |&row| head.iter().skip(row * width).take(width))
            })
            .copied()
            .collect()
    }
}

/// The shape of a layer of a network, of half of the rows or of all, where the hidden width is a multiple of four.
fn padded(shape: &[usize], is_half: bool) -> Vec<usize> {
    let mut shape = shape.to_vec();
    let hidden = if is_half { shape.first_mut() } else { shape.get_mut(1) };
    if let Some(hidden) = hidden {
        let width = if is_half { *hidden / 2 } else { *hidden };
        *hidden = width.checked_next_multiple_of(4).unwrap_or(width);
    }
    shape
}

/// A matrix with columns of zeros at the end, up to this shape; a bias as it is.
fn widened(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let &[rows, columns] = shape else { return values.to_vec() };
    let width = values.len() / rows.max(1);
    let zeros = std::iter::repeat_n(&0.0, columns.saturating_sub(width));
    values.chunks(width.max(1)).flat_map(|row| row.iter().chain(zeros.clone())).copied().collect()
}

/// Tensors that others take in.
fn is_folded(name: &str) -> bool {
    let ends = [".norm1.weight", ".norm2.weight", ".norm_final.weight"];
    ends.iter().any(|end| name.ends_with(end)) || name.starts_with("feat_rope")
}

/// The norms whose scales an adaLN layer makes: which part of its rows, of how many, and the weight of the norm.
fn norms_of(owner: &str) -> Vec<(usize, usize, String)> {
    if owner == "final_layer" {
        return vec![(1, 2, format!("{owner}.norm_final.weight"))];
    }
    vec![(1, 6, format!("{owner}.norm1.weight")), (4, 6, format!("{owner}.norm2.weight"))]
}

fn part_of(values: &mut [f32], part: usize, parts: usize) -> &mut [f32] {
    let len = values.len() / parts;
    &mut values[part * len..(part + 1) * len]
}

/// `s'` with `1 + s' = (1 + s)·w`.
fn moved(scale: f32, weight: f32) -> f32 {
    let (scale, weight) = (f64::from(scale), f64::from(weight));
    ((1.0 + scale) * weight - 1.0) as f32
}

/// `[D, K] · [K, C·p·p]`, in f64; `shape` is that of the result.
fn product(left: &[f32], right: &[f32], shape: Option<&Vec<usize>>) -> Vec<f32> {
    let outputs = shape.and_then(|shape| shape.first()).copied().unwrap_or(0).max(1);
    let inner = (left.len() / outputs).max(1);
    let width = right.len() / inner;
    let row = |row: &[f32]| {
        let mut sums = vec![0.0; width];
        for (&factor, values) in row.iter().zip(right.chunks(width.max(1))) {
            let pairs = sums.iter_mut().zip(values);
            pairs.for_each(|(sum, &value)| *sum += f64::from(factor) * f64::from(value));
        }
        sums.into_iter().map(|sum| sum as f32).collect::<Vec<_>>()
    };
    left.chunks(inner).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shapes_become_those_of_this_program() {
        let theirs = [
            ("blocks.0.norm1.weight", &[8][..]),
            ("blocks.0.attn.q_norm.weight", &[8]),
            ("blocks.0.mlp.w12.weight", &[24, 8]),
            ("blocks.0.mlp.w12.bias", &[24]),
            ("blocks.1.mlp.experts.3.w3.weight", &[8, 6]),
            ("feat_rope.freqs_cos", &[4, 8]),
            ("x_embedder.proj1.weight", &[5, 3, 2, 2]),
            ("x_embedder.proj2.weight", &[8, 5, 1, 1]),
            ("x_embedder.proj2.bias", &[8]),
        ];
        let theirs = theirs.map(|(name, shape)| (name.to_owned(), shape.to_vec())).into();
        let layout = JitLayout::of(&theirs).unwrap();
        let ours = [
            ("blocks.0.attn.q_norm.weight", &[8][..]),
            ("blocks.0.mlp.gate_proj.bias", &[12]),
            ("blocks.0.mlp.gate_proj.weight", &[12, 8]),
            ("blocks.0.mlp.up_proj.bias", &[12]),
            ("blocks.0.mlp.up_proj.weight", &[12, 8]),
            ("blocks.1.mlp.experts.3.down_proj.weight", &[8, 8]),
            ("x_embedder.proj.bias", &[8]),
            ("x_embedder.proj.weight", &[8, 3, 2, 2]),
        ];
        let ours = ours.map(|(name, shape)| (name.to_owned(), shape.to_vec())).into();
        assert_eq!(*layout.shapes(), ours);
        assert!(JitLayout::of(&ours).is_none(), "this program's own files");
    }

    #[test]
    fn networks_of_odd_widths_get_numbers_that_are_zero() {
        let (d, m) = (2, 5);
        let theirs: Shapes = [
            ("blocks.0.mlp.w12.weight".to_owned(), vec![2 * m, d]),
            ("blocks.0.mlp.w12.bias".to_owned(), vec![2 * m]),
            ("blocks.0.mlp.w3.weight".to_owned(), vec![d, m]),
            ("blocks.0.mlp.w3.bias".to_owned(), vec![d]),
        ]
        .into();
        let layout = JitLayout::of(&theirs).unwrap();
        let read = |name: &str| {
            let count = theirs[name].iter().product::<usize>();
            Ok((1..=count).map(|n| n as f32).collect())
        };
        let of = |name: &str| layout.read(&format!("blocks.0.mlp.{name}"), read).unwrap();
        let zeros = |count: usize| vec![0.0; count];
        let whole = |range: std::ops::RangeInclusive<u8>| range.map(f32::from).collect::<Vec<_>>();
        assert_eq!(of("gate_proj.weight"), [whole(1..=10), zeros(6)].concat());
        assert_eq!(of("up_proj.weight"), [whole(11..=20), zeros(6)].concat());
        assert_eq!(of("gate_proj.bias"), [whole(1..=5), zeros(3)].concat());
        assert_eq!(of("up_proj.bias"), [whole(6..=10), zeros(3)].concat());
        let down = [whole(1..=5), zeros(3), whole(6..=10), zeros(3)].concat();
        assert_eq!(of("down_proj.weight"), down);
        assert_eq!(of("down_proj.bias"), [1.0, 2.0]);
        for (name, shape) in layout.shapes() {
            let values = layout.read(name, read).unwrap();
            assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
        }
    }

    #[test]
    fn damaged_files_are_read_without_a_panic() {
        let theirs: Shapes = [
            ("blocks.0.mlp.w12.weight".to_owned(), vec![]),
            ("blocks.0.attn.qkv.weight".to_owned(), vec![7]),
            ("blocks.0.attn.q_norm.weight".to_owned(), vec![3]),
            ("blocks.0.adaLN_modulation.1.weight".to_owned(), vec![5, 2]),
            ("x_embedder.proj1.weight".to_owned(), vec![]),
        ]
        .into();
        let layout = JitLayout::of(&theirs).unwrap();
        for name in layout.shapes().keys() {
            for len in 0..9 {
                let _ = layout.read(name, |_| Ok(vec![1.0; len]));
            }
        }
    }
}
