//! A decoder as data: feature maps and the layers that produce them, in order. Both backends execute it.

/// A feature map, numbered by its place in [`Plan::values`].
pub(super) type ValueId = usize;

/// The shape of a feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) channels: usize,
    /// Height and width are those of the latent times this.
    pub(super) scale: usize,
}

impl Value {
    /// Height and width.
    pub(super) fn size(self, latent: [usize; 2]) -> [usize; 2] {
        latent.map(|n| n * self.scale)
    }

    /// Height times width.
    pub(super) fn pixels(self, latent: [usize; 2]) -> usize {
        self.size(latent).iter().product()
    }
}

/// A convolution of stride 1 with a zero border.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "switches that do not depend on each other")]
pub(super) struct Conv {
    /// Prefix of `.weight` and `.bias`.
    pub(super) name: String,
    /// 1 or 3.
    pub(super) kernel: usize,
    pub(super) has_bias: bool,
    pub(super) from: ValueId,
    pub(super) to: ValueId,
    /// Whether `from` is enlarged to twice its size first, each pixel becoming four.
    pub(super) enlarge: bool,
    /// Whether the result is added to `to`, which is there already.
    pub(super) add: bool,
    /// Whether the result is then clamped at zero.
    pub(super) relu: bool,
}

/// A group norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Norm {
    /// Prefix of `.weight` and `.bias`.
    pub(super) name: String,
    /// Channels that share mean and variance.
    pub(super) group: usize,
    pub(super) from: ValueId,
    /// May be `from`.
    pub(super) to: ValueId,
    /// Whether SiLU follows.
    pub(super) silu: bool,
}

/// Self-attention over all pixels with one head, added to `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attention {
    /// Prefixes of query, key, value and output projection.
    pub(super) names: [String; 4],
    pub(super) from: ValueId,
    pub(super) to: ValueId,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Conv(Conv),
    Norm(Norm),
    Attention(Attention),
}

/// A layer, and the output that can be inspected after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) layer: Layer,
    /// Name of the PyTorch module whose output is complete after this step, and where it lies.
    pub(super) tap: Option<(String, ValueId)>,
}

impl Layer {
    /// Its inputs and outputs.
    pub(super) fn ends(&self) -> (ValueId, ValueId) {
        match self {
            Self::Conv(c) => (c.from, c.to),
            Self::Norm(n) => (n.from, n.to),
            Self::Attention(a) => (a.from, a.to),
        }
    }
}

/// All of a decoder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The first is the latent.
    pub(super) values: Vec<Value>,
    pub(super) steps: Vec<Step>,
    /// Names of the tensors that are used.
    pub(super) tensors: Vec<String>,
}

impl Plan {
    /// The image.
    pub(super) fn output_id(&self) -> ValueId {
        self.steps.last().map_or(0, |step| step.layer.ends().1)
    }

    /// The image's shape.
    pub(super) fn output(&self) -> Value {
        self.values[self.output_id()]
    }

    /// `[C, height, width]` of the image of a latent with `size` cells.
    pub(super) fn image_shape(&self, size: [usize; 2]) -> [usize; 3] {
        let output = self.output();
        let [height, width] = output.size(size);
        [output.channels, height, width]
    }

    /// `[C, height, width]` of a latent with `size` cells.
    pub(super) fn latent_shape(&self, size: [usize; 2]) -> [usize; 3] {
        [self.values[0].channels, size[0], size[1]]
    }

    /// For each step, the feature maps that are not read after it.
    pub(super) fn last_uses(&self) -> Vec<Vec<ValueId>> {
        let mut last = vec![0; self.values.len()];
        for (i, step) in self.steps.iter().enumerate() {
            let (from, to) = step.layer.ends();
            last[from] = i;
            last[to] = i;
        }
        let mut ends = vec![Vec::new(); self.steps.len()];
        for (value, &step) in last.iter().enumerate().filter(|(v, _)| *v != self.output_id()) {
            ends[step].push(value);
        }
        ends
    }

    /// Bytes of the feature maps that are needed at the same time for a latent of `[height, width]`, at most.
    pub(super) fn most_alive(&self, latent: [usize; 2]) -> u64 {
        let bytes =
            |v: ValueId| 4 * (self.values[v].channels * self.values[v].pixels(latent)) as u64;
        let mut is_alive = vec![false; self.values.len()];
        let (mut now, mut most) = (bytes(0), bytes(0));
        is_alive[0] = true;
        for (step, ends) in self.steps.iter().zip(self.last_uses()) {
            let to = step.layer.ends().1;
            if !std::mem::replace(&mut is_alive[to], true) {
                now += bytes(to);
            }
            most = most.max(now);
            now -= ends.iter().map(|&value| bytes(value)).sum::<u64>();
        }
        most
    }

    /// Multiply-adds of the products.
    pub(super) fn multiply_adds(&self, latent: [usize; 2]) -> u64 {
        let of = |step: &Step| {
            let (from, to) = step.layer.ends();
            let (from, to) = (self.values[from], self.values[to]);
            let pixels = to.pixels(latent) as u64;
            let (inputs, outputs) = (from.channels as u64, to.channels as u64);
            match &step.layer {
                Layer::Conv(c) => (c.kernel * c.kernel) as u64 * inputs * outputs * pixels,
                Layer::Norm(_) => 0,
                Layer::Attention(_) => 2 * pixels * outputs * (2 * outputs + pixels),
            }
        };
        self.steps.iter().map(of).sum()
    }
}
