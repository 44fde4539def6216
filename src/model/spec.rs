//! Description of a tensor: its official name, its shape and its role. Whatever depends on the kind of tensor
//! (storage, precision, memory, random values) uses the role, never the name.

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Weight `[out, in]` of a linear layer inside a block or a layer of the text encoder.
    Matrix,
    /// Weight `[n·D, D]` of an adaLN layer; a matrix like the others, but initialised smaller.
    Modulation,
    /// Weight of a linear layer outside the blocks: patch and time embedding, final projection, pooled text.
    Projection,
    /// Weight `[out, in, 3, 3]` of a convolution of the detail head.
    Convolution,
    /// Weight of a gate or a capacity predictor, whose last bits decide which expert takes a token.
    Router,
    /// Rows in f32: labels, vocabulary, positions in a prompt, prototypes of experts.
    Table,
    /// The fixed position embedding of image patches.
    Position,
    /// Scale of a norm.
    Norm,
    /// Bias of a linear layer, or shift of a norm.
    Bias,
    /// What decides beside the scores on who takes a token: thresholds of predicted capacities, biases of a sigmoid router.
    /// Not trained by gradients.
    Threshold,
    /// State of the trainer, which inference never reads; files may leave it out.
    Buffer,
}

/// Matrices of one group get one precision on a GPU, because they lie in one buffer or a kernel reads them
/// side by side: one layer of all experts of a block, and `gate_proj` with `up_proj`. Any other tensor is a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(pub String);

/// A tensor that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Official `state_dict` name.
    pub name: String,
    /// Shape, row-major, `Linear.weight` as `[out, in]`.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// Which matrices share its precision.
    pub group: Group,
    /// Whether it belongs to an expert that tokens are routed to.
    pub is_expert: bool,
}

impl TensorSpec {
    /// A tensor that shares its precision with no other.
    pub fn new(name: impl Into<String>, shape: &[usize], role: Role) -> Self {
        let name = name.into();
        let group = Group(name.clone());
        Self { name, shape: shape.to_vec(), role, group, is_expert: false }
    }

    /// How many numbers it holds.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Whether it is one of the large matrices, which may lose precision in a file and on a GPU. What is
    /// small, and what decides on routing, stays f32.
    pub fn is_matrix(&self) -> bool {
        matches!(self.role, Role::Matrix | Role::Modulation)
    }

    /// Whether a checkpoint may come without it.
    pub fn is_optional(&self) -> bool {
        self.role == Role::Buffer
    }
}

/// A linear layer, `y = x·Wᵀ + b`, or a convolution.
#[derive(Clone, Debug)]
pub(crate) struct LinearSpec {
    /// `[out, in]`; a patch embedding or convolution has `[out, channels, height, width]`.
    pub(crate) weight: TensorSpec,
    /// `[out]`
    pub(crate) bias: Option<TensorSpec>,
}

impl LinearSpec {
    /// A layer with a bias; `name` is the official one without `.weight`.
    pub(super) fn new(name: &str, shape: &[usize], role: Role) -> Self {
        let bias = TensorSpec::new(format!("{name}.bias"), &shape[..1], Role::Bias);
        Self { weight: TensorSpec::new(format!("{name}.weight"), shape, role), bias: Some(bias) }
    }

    /// Outputs, inputs and width of the kernel of a convolution.
    pub(crate) fn conv_sizes(&self) -> [usize; 3] {
        [0, 1, 2].map(|i| self.weight.shape[i])
    }

    /// Width of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.weight.shape[0]
    }

    /// Width of the input.
    pub(crate) fn inputs(&self) -> usize {
        self.weight.shape.iter().skip(1).product()
    }
}
