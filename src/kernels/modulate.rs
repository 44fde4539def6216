//! Layer normalisation with adaLN's scale and shift: `y = LN(x)·(1 + scale) + shift`.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes, spread};
use crate::model::NormForm;

/// Lanes of a workgroup on software adapters: one SIMD vector. More would leave cores idle on small pools.
const LANES: usize = 8;

/// One modulated normalisation.
#[derive(Clone, Copy)]
pub struct Modulate<'a> {
    /// `[S, D]`
    pub x: &'a Tensor,
    /// What `LN` stands for.
    pub norm: NormForm,
    /// `[B, columns]`: shifts, scales and gates of all layers.
    pub modulation: &'a Tensor,
    /// First column of the shift.
    pub shift: usize,
    /// First column of the scale.
    pub scale: usize,
    /// `[S, D]`
    pub y: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    rows: u32,
    quads: u32,
    sample_tokens: u32,
    modulation_quads: u32,
    shift_quad: u32,
    scale_quad: u32,
    centring: f32,
}

impl Kernel for Modulate<'_> {
    /// A workgroup per token.
    const SHADER: Shader = shader!("modulate", shared: ["modulate", "row_total"]);
    /// A lane per token.
    const SOFTWARE: Option<Shader> =
        Some(shader!("modulate_software", shared: ["modulate"], sizes: [LANES]));
    type Params = Params;

    fn params(&self) -> Params {
        let [d, columns] = [self.x.shape[1], self.modulation.shape[1]];
        assert_eq!(self.x.shape, self.y.shape);
        assert!(
            [d, columns, self.shift, self.scale].iter().all(|n| n.is_multiple_of(4)),
            "columns are read four at a time"
        );
        Params {
            rows: self.x.shape[0] as u32,
            quads: (d / 4) as u32,
            sample_tokens: (self.x.shape[0] / self.modulation.shape[0]) as u32,
            modulation_quads: (columns / 4) as u32,
            shift_quad: (self.shift / 4) as u32,
            scale_quad: (self.scale / 4) as u32,
            centring: self.norm.centring(),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.x, self.modulation, self.y]
    }

    fn groups(&self, profile: Profile) -> [u32; 3] {
        let rows = self.x.shape[0];
        match profile {
            Profile::Gpu => spread(rows),
            Profile::Software => lanes(rows, LANES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{PROFILES, assert_close, poisoned, read, run_variant, spiky, tensor};

    fn reference(x: &[f32], modulation: &[f32], shape: [usize; 5], norm: NormForm) -> Vec<f32> {
        let [samples, tokens, d, shift, scale] = shape;
        let columns = modulation.len() / samples;
        let mut y = Vec::new();
        for (s, row) in x.chunks(d).enumerate() {
            let row: Vec<_> = row.iter().map(|&v| f64::from(v)).collect();
            let mean = match norm {
                NormForm::Layer => row.iter().sum::<f64>() / d as f64,
                NormForm::Rms => 0.0,
            };
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
            let m = &modulation[s / tokens * columns..];
            for (i, v) in row.iter().enumerate() {
                let normal = (v - mean) / (variance + 1e-6).sqrt();
                y.push((normal * (1.0 + f64::from(m[scale + i])) + f64::from(m[shift + i])) as f32);
            }
        }
        y
    }

    const FORMS: [NormForm; 2] = [NormForm::Layer, NormForm::Rms];

    #[test]
    fn matches_the_reference_in_both_variants() {
        for (samples, tokens, d) in [(1, 1, 4), (3, 5, 20), (2, 9, 260), (2, 33, 1024)] {
            let columns = 6 * d + 8;
            let (shift, scale) = (3 * d, d + 8);
            // An offset of 100 makes a variance from squares alone lose five digits.
            let mut x = spiky(samples * tokens * d, 1, 1.0);
            x.iter_mut().step_by(3).for_each(|v| *v += 100.0);
            let modulation = spiky(samples * columns, 2, 0.5);
            let x_tensor = tensor(&[samples * tokens, d], &x);
            let m_tensor = tensor(&[samples, columns], &modulation);
            let shape = [samples, tokens, d, shift, scale];
            for (norm, profile) in
                PROFILES.into_iter().flat_map(|profile| FORMS.map(|norm| (norm, profile)))
            {
                let want = reference(&x, &modulation, shape, norm);
                let y = poisoned(&[samples * tokens, d]);
                let (x, modulation) = (&x_tensor, &m_tensor);
                let call = Modulate { x, norm, modulation, shift, scale, y: &y };
                run_variant(&call, profile);
                // Normalised values of size 10, from inputs of size 100 rounded at 2⁻²⁴: 1e-5 relative.
                assert_close(&read(&y), &want, 2e-4, 1e-5);
            }
        }
    }
}
