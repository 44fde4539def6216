//! What a tree of weights is made of, and who makes it: see [`Weights`](super::Weights).

use std::fmt::Debug;
use std::future::Future;

use super::ffn::Ffn;
use super::spec::{LinearSpec, TensorSpec};

/// What the leaves of a tree are.
pub(crate) trait Leaf: Debug {
    /// A linear layer, with or without a bias.
    type Linear: Debug;
    /// A table in f32.
    type Table: Debug;
    /// Tables of one width, one below the other.
    type Stack: Debug;
    /// A layer of the time MLP, which the processor computes.
    type Time: Debug;
    /// An adaLN layer.
    type Modulation: Debug;
    /// All experts of an MoE layer.
    type Experts: Debug;
    /// A convolution over whole pixels.
    type Conv: Debug;
}

/// Nothing is kept: for sources that only look.
impl Leaf for () {
    type Linear = ();
    type Table = ();
    type Stack = ();
    type Time = ();
    type Modulation = ();
    type Experts = ();
    type Conv = ();
}

/// Makes leaves from their descriptions. The walk requests them in the order of the official `state_dict`.
pub(crate) trait Source<L: Leaf> {
    /// Why a leaf cannot be made.
    type Error;
    /// A linear layer.
    fn linear(&mut self, spec: &LinearSpec) -> Result<L::Linear, Self::Error>;
    /// A table of rows.
    fn table(&mut self, spec: &TensorSpec) -> Result<L::Table, Self::Error>;
    /// The label tables, or the scales and shifts of norms: there may be none.
    fn stack(&mut self, specs: &[TensorSpec]) -> Result<L::Stack, Self::Error>;
    /// A layer of the time MLP.
    fn time(&mut self, spec: &LinearSpec) -> Result<L::Time, Self::Error>;
    /// An adaLN layer `[n·D, D]`.
    fn modulation(&mut self, spec: &LinearSpec) -> Result<L::Modulation, Self::Error>;
    /// All experts of a layer, at least one; all have the same form and shapes.
    fn experts(&mut self, specs: &[Ffn<LinearSpec>]) -> Result<L::Experts, Self::Error>;
    /// A convolution `[out, in, k, k]` with a bias.
    fn conv(&mut self, spec: &LinearSpec) -> Result<L::Conv, Self::Error>;
    /// Numbers that stay with the processor.
    fn values(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error>;
    /// State of the trainer.
    fn buffer(&mut self, _spec: &TensorSpec) {}
    /// Called after every block: the place to let a page draw while a model loads.
    fn pause(&mut self) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}
