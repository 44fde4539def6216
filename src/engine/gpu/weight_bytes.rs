//! What the weights of a model take on a device, from its configuration alone: every tensor that the loader in
//! `weights` makes, counted.

use std::convert::Infallible;

use super::precision::Precisions;
use crate::model::{Config, Ffn, LinearSpec, Source, TensorSpec, look};

/// Bytes of the weights on a device.
pub(in crate::engine) struct WeightBytes<'a> {
    precisions: &'a Precisions,
    /// All together.
    pub(in crate::engine) total: u64,
    /// The largest piece that one binding has to hold, and what it is: linear layers are split by rows and banks of
    /// experts by experts, tables not at all.
    pub(in crate::engine) largest: (String, u64),
}

impl<'a> WeightBytes<'a> {
    /// Counts the weights of a model.
    pub(in crate::engine) fn of(config: &Config, precisions: &'a Precisions) -> Self {
        let mut bytes = Self { precisions, total: 0, largest: Default::default() };
        look(config, &mut bytes);
        // The norms of a text encoder have no shift and scale; a kernel that needs some reads zeros.
        bytes.total += config.text.as_ref().map_or(0, |text| 8 * text.hidden_size as u64);
        bytes
    }

    /// Counts a piece that cannot be split.
    fn add(&mut self, name: &str, bytes: u64) {
        self.total += bytes;
        if bytes > self.largest.1 {
            self.largest = (name.to_owned(), bytes);
        }
    }

    /// Bytes of a row of a weight.
    fn row(&self, layer: &LinearSpec) -> u64 {
        let columns = layer.inputs().next_multiple_of(4);
        4 * self.precisions.of(&layer.weight).row_words(columns) as u64
    }
}

impl Source<()> for WeightBytes<'_> {
    type Error = Infallible;

    fn linear(&mut self, spec: &LinearSpec) -> Result<(), Infallible> {
        let (row, rows) = (self.row(spec), spec.outputs() as u64);
        self.add(&spec.weight.name, row);
        // A layer without a bias gets one of zeros.
        self.total += (rows - 1) * row + 4 * rows;
        Ok(())
    }

    fn table(&mut self, spec: &TensorSpec) -> Result<(), Infallible> {
        self.add(&spec.name, 4 * spec.elements());
        Ok(())
    }

    fn stack(&mut self, specs: &[TensorSpec]) -> Result<(), Infallible> {
        let label = specs.first().map_or_else(String::new, |spec| spec.name.clone());
        // No buffer is empty.
        self.add(&label, specs.iter().map(|spec| 4 * spec.elements()).sum::<u64>().max(4));
        Ok(())
    }

    fn modulation(&mut self, spec: &LinearSpec) -> Result<(), Infallible> {
        self.linear(spec)
    }

    /// Thresholds come with a run.
    fn values(&mut self, _: &TensorSpec) -> Result<Vec<f32>, Infallible> {
        Ok(Vec::new())
    }

    fn experts(&mut self, specs: &[Ffn<LinearSpec>]) -> Result<(), Infallible> {
        for layer in specs.iter().flat_map(Ffn::iter) {
            self.add(&layer.weight.name, self.row(layer) * layer.outputs() as u64);
            self.total += layer.bias.as_ref().map_or(0, |bias| 4 * bias.elements());
        }
        Ok(())
    }
}
