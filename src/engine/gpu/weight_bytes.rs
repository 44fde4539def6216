//! The GPU memory for the weights of a model, from its configuration alone: every tensor that the loader in
//! `weights` makes, counted.

use super::precision::Precisions;
use crate::kernels::{ConvWeights, Pixels};
use crate::model::{Config, Ffn, LinearSpec, Seen, TensorSpec, look};

/// Bytes of the weights on a device.
pub(in crate::engine) struct WeightBytes {
    /// All together.
    pub(in crate::engine) total: u64,
    /// The largest piece that one binding has to hold, and what it is: linear layers are split by rows and banks of
    /// experts by experts, tables not at all.
    pub(in crate::engine) largest: (String, u64),
}

impl WeightBytes {
    /// Counts the weights of a model.
    pub(in crate::engine) fn of(config: &Config, precisions: &Precisions) -> Self {
        // The norms of a text encoder have no shift and scale; a kernel that needs some reads zeros.
        let total = config.text.as_ref().map_or(0, |text| 8 * text.hidden_size as u64);
        let mut bytes = Self { total, largest: Default::default() };
        if config.rope {
            bytes.add("rotations", 4 * (config.stream_tokens() * config.head_dim) as u64);
        }
        let columns = config.out_channels * config.patch_size * config.patch_size;
        bytes.add("places of pixels", Pixels::bytes_of(config.stream_tokens(), columns));
        if let (true, Some(context)) = (config.pos_embed, config.context) {
            // Rows of zeros in the table of positions.
            bytes.total += 4 * (context.count * config.hidden_size) as u64;
        }
        let row = |layer: &LinearSpec| {
            let columns = layer.inputs().next_multiple_of(4);
            4 * precisions.of(&layer.weight).row_words(columns) as u64
        };
        look(config, |seen| match seen {
            Seen::Linear(layer) => {
                let (row, rows) = (row(layer), layer.outputs() as u64);
                bytes.add(&layer.weight.name, row);
                // A layer without a bias gets one of zeros.
                bytes.total += (rows - 1) * row + 4 * rows;
            }
            Seen::Experts(experts) => {
                for layer in experts.iter().flat_map(Ffn::iter) {
                    bytes.add(&layer.weight.name, layer.outputs() as u64 * row(layer));
                    bytes.total += layer.bias.as_ref().map_or(0, |bias| 4 * bias.elements());
                }
            }
            Seen::Conv(layer) => {
                let [weights, bias] = ConvWeights::bytes_of(layer.conv_sizes());
                bytes.add(&layer.weight.name, weights);
                bytes.total += bias;
            }
            Seen::Stack(tables) => {
                let name = tables.first().map_or("no labels", |table| &table.name);
                // No buffer is empty.
                let numbers = tables.iter().map(TensorSpec::elements).sum::<u64>().max(1);
                bytes.add(name, 4 * numbers);
            }
            Seen::Aside(_) => {}
        });
        bytes
    }

    /// Counts a piece that cannot be split.
    fn add(&mut self, name: &str, bytes: u64) {
        self.total += bytes;
        if bytes > self.largest.1 {
            self.largest = (name.to_owned(), bytes);
        }
    }
}
