//! A linear layer of normalised and modulated rows: `y = epilogue(act(h·Wᵀ + b))` with `h = LN(x)·(1 + scale) + shift`,
//! as [`Modulate`](super::Modulate) and [`Linear`] in one kernel. For GPUs only.

use std::fmt::Display;

use super::linear::{Call, Linear, Params};
use crate::gpu::{Gpu, Kernel, Profile, Shader, Tape, Tensor};
use crate::model::NormForm;

/// Numbers of a row up to which the norm costs a product less than a kernel of its own: every workgroup takes the mean
/// and the variance of its rows anew.
pub const LONGEST_ROW: usize = 256;

/// The layer norm in front of a layer, with adaLN's scale and shift.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// What `LN` stands for.
    pub form: NormForm,
    /// `[B, columns]`: shifts, scales and gates of all layers.
    pub modulation: &'a Tensor,
    /// First column of the shift; a multiple of 4.
    pub shift: usize,
    /// First column of the scale; a multiple of 4.
    pub scale: usize,
    /// Out: the normalised rows, `[S, K]`.
    pub h: &'a Tensor,
    /// Whether they are kept; else `h` is left alone.
    pub keeps: bool,
}

/// A linear layer and the norm in front of it.
pub struct NormedLinear<'a> {
    /// The layer; its `x` has the rows before the norm.
    pub linear: Linear<'a>,
    /// The norm.
    pub norm: Norm<'a>,
}

impl NormedLinear<'_> {
    /// Records the layer, one dispatch for each part of the weights.
    ///
    /// # Panics
    /// When shapes do not fit: a bug.
    pub fn record<S: Clone + Display>(&self, gpu: &Gpu, tape: &mut Tape<S>, scope: S) {
        assert_eq!(gpu.profile, Profile::Gpu, "software adapters normalise in a kernel of its own");
        self.linear.check();
        for (i, call) in self.linear.calls(gpu.tiling).enumerate() {
            tape.push(gpu, scope.clone(), &NormedCall::new(call, self.norm, i == 0));
        }
    }
}

/// A [`NormedLinear`] over one part of its weights.
pub(super) struct NormedCall<'a> {
    call: Call<'a>,
    norm: Norm<'a>,
}

impl<'a> NormedCall<'a> {
    /// The first part keeps the rows for all.
    fn new(call: Call<'a>, norm: Norm<'a>, is_first: bool) -> Self {
        Self { call, norm: Norm { keeps: norm.keeps && is_first, ..norm } }
    }
}

impl Kernel for NormedCall<'_> {
    const SHADER: Shader = shader!(
        "linear_normal",
        shared: ["linear_tile", "product_tile", "linear", "weights", "activation"]
    );
    type Params = Params;

    fn params(&self) -> Params {
        let Norm { form, modulation, shift, scale, h, keeps } = self.norm;
        let x = self.call.x();
        let [rows, k] = [x.shape[0], x.shape[1]];
        let [samples, columns] = [modulation.shape[0], modulation.shape[1]];
        assert_eq!(h.len(), x.len(), "h {:?}", h.shape);
        assert!(rows.is_multiple_of(samples), "{rows} rows in {samples} samples");
        assert!(shift.max(scale) + k <= columns, "shift at {shift}, scale at {scale} of {columns}");
        for n in [k, columns, shift, scale] {
            assert!(n.is_multiple_of(4), "{n} columns: read four at a time");
        }
        Params {
            norm_rows: (rows / samples) as u32,
            norm_stride: columns as u32 / 4,
            shift_quad: shift as u32 / 4,
            scale_quad: scale as u32 / 4,
            keeps_normal: keeps.into(),
            centring: form.centring(),
            ..self.call.params()
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let mut tensors = self.call.tensors();
        tensors.extend([self.norm.modulation, self.norm.h]);
        tensors
    }

    fn constants(&self, profile: Profile) -> Vec<(&'static str, f64)> {
        self.call.constants(profile)
    }

    fn groups(&self, profile: Profile) -> [u32; 3] {
        self.call.groups(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Epilogue, Matrix, Modulate, WeightPrecision};
    use super::*;
    use crate::checkpoint::StoredRows;
    use crate::gpu::testing::{assert_close, gpu, poisoned, read, run_variant, spiky, tensor};
    use crate::gpu::{Tile, Tiling};

    #[test]
    fn it_is_the_norm_and_the_layer_one_after_the_other() {
        for (form, samples, tokens, n, k, precision) in [
            (NormForm::Layer, 1, 1, 1, 4, WeightPrecision::F32),
            (NormForm::Layer, 3, 11, 65, 20, WeightPrecision::F16),
            (NormForm::Layer, 2, 64, 64, 192, WeightPrecision::Int8),
            (NormForm::Layer, 2, 35, 131, 172, WeightPrecision::F32),
            (NormForm::Rms, 2, 35, 131, 172, WeightPrecision::F32),
        ] {
            let rows = samples * tokens;
            let columns = 3 * k + 8;
            let [shift, scale] = [2 * k + 4, k];
            // An offset makes a variance from squares alone lose digits.
            let mut x = spiky(rows * k, 1, 1.0);
            x.iter_mut().step_by(3).for_each(|v| *v += 30.0);
            let x = tensor(&[rows, k], &x);
            let modulation = tensor(&[samples, columns], &spiky(samples * columns, 2, 0.3));
            let weights = Matrix::new(gpu(), "test weights", n, k, precision);
            weights.write_rows(gpu(), 0, &StoredRows::floats(k, spiky(n * k, 3, 0.1)));
            weights.write_bias(gpu(), 0, &spiky(n, 4, 1.0));
            let before = spiky(rows * n, 5, 1.0);

            let rows_alone = poisoned(&[rows, k]);
            let to = &rows_alone;
            let modulate =
                Modulate { x: &x, norm: form, modulation: &modulation, shift, scale, y: to };
            run_variant(&modulate, Profile::Gpu);
            let want = tensor(&[rows, n], &before);
            let alone = Linear::new(&rows_alone, &weights, &want).ending(Epilogue::Add);
            alone.calls(Tiling::default()).for_each(|call| run_variant(&call, Profile::Gpu));
            let want = read(&want);

            let mut results = Vec::new();
            for (tile, keeps) in [(Tile::Small, true), (Tile::Large, true), (Tile::Large, false)] {
                let y = tensor(&[rows, n], &before);
                let h = poisoned(&[rows, k]);
                let norm = Norm { form, modulation: &modulation, shift, scale, h: &h, keeps };
                let linear = Linear::new(&x, &weights, &y).ending(Epilogue::Add);
                for call in linear.calls(Tiling::Only(tile)) {
                    run_variant(&NormedCall::new(call, norm, true), Profile::Gpu);
                }
                if keeps {
                    assert_close(&read(&h), &read(&rows_alone), 2e-5, 1e-5);
                } else {
                    assert!(read(&h).iter().all(|v| v.is_nan()), "nobody asked for it");
                }
                let got = read(&y);
                // Rows of size 10 times weights of size 1, rounded at 2⁻²⁴.
                assert_close(&got, &want, 2e-4, 2e-5);
                results.push(got);
            }
            assert!(results.iter().all(|got| *got == results[0]), "the tile changes no bit");
        }
    }
}
