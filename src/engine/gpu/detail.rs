//! The detail head: three convolutions over whole pixels, whose result is added to the predicted sample.

use super::dit::Network;
use crate::engine::{Scope, Stage};
use crate::gpu::{Tape, Tensor};
use crate::kernels::conv2d::Activation;
use crate::kernels::detail_pixels::Way;
use crate::kernels::{Conv2d, ConvWeights, DetailPixels};
use crate::scheduler::Latent;

impl Network<'_> {
    /// Finishes the samples that [`Network::final_layer`] left in `output`: `x̂ += head([x̂, input, t])`, with the times
    /// `[B]`. Nothing in a model without a detail head.
    pub(super) fn detail_head(&self, input: Latent, output: Latent, times: &Tensor) -> Tape<Scope> {
        let Self { gpu, config, weights, acts: a, .. } = *self;
        let mut tape = Tape::default();
        let (Some(w), Some(maps)) = (&weights.tree.detail_head, &a.detail) else { return tape };
        let scope = Scope::from(Stage::Detail);
        let ends = DetailPixels {
            latents: &a.latents,
            predicted: a.region(config, output).first,
            noised: a.region(config, input).first,
            samples: a.samples,
            channels: config.in_channels,
            size: config.input_size,
            phase: config.detail_phase.then_some(config.patch_size),
            times,
            quads: &maps.pixels,
            way: Way::Join,
        };
        tape.push(gpu, scope, &ends);
        let [none, silu] = [Activation::None, Activation::Silu];
        tape.push(gpu, scope, &self.conv(&maps.pixels, &w.conv_in, &maps.first, silu));
        tape.push(gpu, scope, &self.conv(&maps.first, &w.conv_mid, &maps.second, silu));
        tape.push(gpu, scope, &self.conv(&maps.second, &w.conv_out, &maps.pixels, none));
        tape.push(gpu, scope, &DetailPixels { way: Way::Add, ..ends });
        tape
    }

    /// `y = activation(conv(x))` of all samples.
    fn conv<'a>(
        &self,
        x: &'a Tensor,
        weights: &'a ConvWeights,
        y: &'a Tensor,
        activation: Activation,
    ) -> Conv2d<'a> {
        Conv2d {
            x,
            weights,
            y,
            images: self.acts.batch,
            size: self.config.input_size,
            enlarge: false,
            inputs: (0, weights.in_quads),
            outputs: (0, weights.out_quads),
            y_first: 0,
            bias: true,
            add: false,
            activation,
        }
    }
}
