//! From tensor names and shapes to a [`Plan`]. All mismatches are reported at once.

use std::collections::BTreeSet;

use super::plan::{Attention, Conv, Layer, Norm, Plan, Step, Value, ValueId};
use crate::checkpoint::TensorFile;

/// One sentence for each tensor that does not fit.
type Problems = Vec<String>;

/// No image has more: a file that claims so is damaged.
const MOST_CHANNELS: usize = 1 << 14;

struct Builder<'a> {
    file: &'a TensorFile,
    plan: Plan,
    problems: Problems,
}

/// The parts of a convolution that are not a plain one's.
#[derive(Clone, Copy, Default)]
struct Form {
    enlarge: bool,
    relu: bool,
}

impl<'a> Builder<'a> {
    /// Starts with a latent of as many channels as the convolution `first` takes.
    fn new(file: &'a TensorFile, first: &str) -> Self {
        let mut builder = Self { file, plan: Plan::default(), problems: Vec::new() };
        let channels = match file.shape(&format!("{first}.weight")) {
            Ok(&[_, inputs, ..]) if (1..=MOST_CHANNELS).contains(&inputs) => inputs,
            _ => {
                builder.problems.push(format!("{first}.weight is not a convolution"));
                1
            }
        };
        builder.plan.values.push(Value { channels, scale: 1 });
        builder
    }

    fn has(&self, name: &str) -> bool {
        self.file.contains(&format!("{name}.weight"))
    }

    fn value(&self, id: ValueId) -> Value {
        self.plan.values[id]
    }

    fn add_value(&mut self, value: Value) -> ValueId {
        self.plan.values.push(value);
        self.plan.values.len() - 1
    }

    fn push(&mut self, layer: Layer) {
        self.plan.steps.push(Step { layer, tap: None });
    }

    /// Names the output of the module that ends with the last step.
    fn tap(&mut self, name: impl Into<String>, value: ValueId) {
        if let Some(step) = self.plan.steps.last_mut() {
            step.tap = Some((name.into(), value));
        }
    }

    /// Notes that a tensor is used, and whether it has the shape it needs.
    fn need(&mut self, name: String, shape: &[usize]) {
        match self.file.shape(&name) {
            Err(_) => self.problems.push(format!("{name} {shape:?} is missing")),
            Ok(found) if found != shape => {
                self.problems.push(format!("{name} has shape {found:?}, expected {shape:?}"));
            }
            Ok(_) => {}
        }
        self.plan.tensors.push(name);
    }

    /// Kernel size and number of outputs of a convolution of `inputs` channels; where the tensor is missing or
    /// of another form, what keeps the rest of the file readable.
    fn conv_shape(&mut self, name: &str, inputs: usize) -> (usize, usize) {
        let weight = format!("{name}.weight");
        let (kernel, outputs) = match self.file.shape(&weight) {
            Ok(&[outputs, _, k, _])
                if (k == 1 || k == 3) && (1..=MOST_CHANNELS).contains(&outputs) =>
            {
                (k, outputs)
            }
            Ok(shape) => {
                self.problems.push(format!(
                    "{weight} has shape {shape:?}, expected a 1×1 or 3×3 convolution"
                ));
                return (3, inputs);
            }
            Err(_) => (3, inputs),
        };
        self.need(weight, &[outputs, inputs, kernel, kernel]);
        (kernel, outputs)
    }

    /// A convolution into a new feature map.
    fn conv(&mut self, name: &str, from: ValueId, form: Form) -> ValueId {
        let Value { channels, scale } = self.value(from);
        let (kernel, outputs) = self.conv_shape(name, channels);
        let scale = if form.enlarge { 2 * scale } else { scale };
        let to = self.add_value(Value { channels: outputs, scale });
        self.push_conv(name, kernel, [from, to], false, form);
        to
    }

    /// A convolution whose result is added to a feature map.
    fn conv_onto(&mut self, name: &str, from: ValueId, to: ValueId, form: Form) {
        let (kernel, outputs) = self.conv_shape(name, self.value(from).channels);
        if outputs != self.value(to).channels {
            let wanted = self.value(to).channels;
            self.problems.push(format!(
                "{name}.weight has {outputs} output channels, expected \
                {wanted}"
            ));
        }
        self.push_conv(name, kernel, [from, to], true, form);
    }

    fn push_conv(&mut self, name: &str, kernel: usize, ends: [ValueId; 2], add: bool, form: Form) {
        let has_bias = self.file.contains(&format!("{name}.bias"));
        if has_bias {
            self.need(format!("{name}.bias"), &[self.value(ends[1]).channels]);
        }
        let ([from, to], Form { enlarge, relu }) = (ends, form);
        let name = name.to_owned();
        self.push(Layer::Conv(Conv { name, kernel, has_bias, from, to, enlarge, add, relu }));
    }

    /// A group norm, into `to`.
    fn norm(&mut self, name: &str, groups: usize, from: ValueId, to: ValueId, silu: bool) {
        let channels = self.value(from).channels;
        self.need(format!("{name}.weight"), &[channels]);
        self.need(format!("{name}.bias"), &[channels]);
        if !channels.is_multiple_of(groups) {
            self.problems.push(format!(
                "{name}: {channels} channels cannot be divided into \
                {groups} groups"
            ));
        }
        let group = (channels / groups).max(1);
        self.push(Layer::Norm(Norm { name: name.to_owned(), group, from, to, silu }));
    }

    /// Group norm, SiLU, convolution, twice, around a shortcut.
    fn resnet(&mut self, name: &str, groups: usize, x: ValueId) -> ValueId {
        let part = |part: &str| format!("{name}.{part}");
        let (normal, result) = if self.has(&part("conv_shortcut")) {
            // `x` is free once the shortcut has been taken, so the norm can work in place.
            let result = self.conv(&part("conv_shortcut"), x, Form::default());
            (x, result)
        } else {
            (self.add_value(self.value(x)), x)
        };
        self.norm(&part("norm1"), groups, x, normal, true);
        let hidden = self.conv(&part("conv1"), normal, Form::default());
        self.norm(&part("norm2"), groups, hidden, hidden, true);
        self.conv_onto(&part("conv2"), hidden, result, Form::default());
        self.tap(name, result);
        result
    }

    /// Attention with one head as wide as the feature map.
    fn attention(&mut self, name: &str, groups: usize, x: ValueId) {
        let channels = self.value(x).channels;
        let is_old = self.has(&format!("{name}.query"));
        let parts = if is_old {
            // Diffusers before 0.14; the published Stable Diffusion autoencoders still have these.
            ["query", "key", "value", "proj_attn"]
        } else {
            ["to_q", "to_k", "to_v", "to_out.0"]
        };
        let names = parts.map(|part| format!("{name}.{part}"));
        for name in &names {
            let weight = format!("{name}.weight");
            // Some converters leave the linear layers as convolutions of 1 × 1.
            let is_conv = self.file.shape(&weight).is_ok_and(|shape| shape.len() == 4);
            let shape = [channels, channels, 1, 1];
            self.need(weight, if is_conv { &shape } else { &shape[..2] });
            self.need(format!("{name}.bias"), &[channels]);
        }
        let normal = self.add_value(self.value(x));
        self.norm(&format!("{name}.group_norm"), groups, x, normal, false);
        self.push(Layer::Attention(Attention { names, from: normal, to: x }));
        self.tap(name, x);
    }

    /// The plan, or all errors. `prefixes` select the tensors that a decoder must use.
    fn finish(mut self, prefixes: &[&str]) -> Result<Plan, Problems> {
        let used: BTreeSet<_> = self.plan.tensors.iter().map(String::as_str).collect();
        let is_ours = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let left = self.file.names().filter(|name| is_ours(name) && !used.contains(name));
        let left: Vec<_> =
            left.map(|name| format!("{name} is not part of a supported decoder")).collect();
        self.problems.extend(left);
        if self.problems.is_empty() { Ok(self.plan) } else { Err(self.problems) }
    }
}

/// The decoder of an `AutoencoderKL`, with `groups` groups in every norm.
pub(super) fn kl(file: &TensorFile, groups: usize) -> Result<Plan, Problems> {
    let plain = Form::default();
    let post = file.contains("post_quant_conv.weight");
    let mut b = Builder::new(file, if post { "post_quant_conv" } else { "decoder.conv_in" });
    let mut x = 0;
    if post {
        x = b.conv("post_quant_conv", x, plain);
        b.tap("post_quant_conv", x);
    }
    x = b.conv("decoder.conv_in", x, plain);
    b.tap("decoder.conv_in", x);
    let mid = "decoder.mid_block";
    x = b.resnet(&format!("{mid}.resnets.0"), groups, x);
    if b.has(&format!("{mid}.attentions.0.group_norm")) {
        b.attention(&format!("{mid}.attentions.0"), groups, x);
        x = b.resnet(&format!("{mid}.resnets.1"), groups, x);
    } else if b.has(&format!("{mid}.resnets.1.conv1")) {
        x = b.resnet(&format!("{mid}.resnets.1"), groups, x);
    }
    for block in (0..).map(|i| format!("decoder.up_blocks.{i}")) {
        let resnets = (0..).map(|i| format!("{block}.resnets.{i}"));
        let resnets: Vec<_> = resnets.take_while(|name| b.has(&format!("{name}.conv1"))).collect();
        if resnets.is_empty() {
            break;
        }
        for name in resnets {
            x = b.resnet(&name, groups, x);
        }
        let upsampler = format!("{block}.upsamplers.0");
        if b.has(&format!("{upsampler}.conv")) {
            x = b.conv(&format!("{upsampler}.conv"), x, Form { enlarge: true, ..plain });
            b.tap(upsampler, x);
        }
    }
    b.norm("decoder.conv_norm_out", groups, x, x, true);
    let image = b.conv("decoder.conv_out", x, plain);
    b.three_channels("decoder.conv_out", image);
    b.finish(&["decoder.", "post_quant_conv."])
}

/// The decoder of an `AutoencoderTiny`.
pub(super) fn tiny(file: &TensorFile) -> Result<Plan, Problems> {
    let number = |name: &str| name.strip_prefix("decoder.layers.")?.split('.').next()?.parse().ok();
    let layers: BTreeSet<usize> = file.names().filter_map(number).collect();
    let last = layers.last().copied().unwrap_or(0);
    let mut b = Builder::new(file, "decoder.layers.0");
    let mut x = 0;
    for i in layers {
        let name = format!("decoder.layers.{i}");
        if b.has(&format!("{name}.conv.0")) {
            x = b.tiny_block(&name, x);
        } else if i == 0 {
            // The layer after it, without tensors, is its ReLU.
            x = b.conv(&name, x, Form { relu: true, ..Form::default() });
            b.tap("decoder.layers.1", x);
        } else {
            // In the middle, the previous layer is an upsampling.
            x = b.conv(&name, x, Form { enlarge: i != last, ..Form::default() });
            if i != last {
                b.tap(name, x);
            }
        }
    }
    b.three_channels(&format!("decoder.layers.{last}"), x);
    b.finish(&["decoder."])
}

impl Builder<'_> {
    /// `relu(conv(relu(conv(relu(conv(x))))) + skip(x))`
    fn tiny_block(&mut self, name: &str, x: ValueId) -> ValueId {
        let relu = Form { relu: true, ..Form::default() };
        let skip = format!("{name}.skip");
        let result = if self.has(&skip) { self.conv(&skip, x, Form::default()) } else { x };
        let first = self.conv(&format!("{name}.conv.0"), x, relu);
        let second = self.conv(&format!("{name}.conv.2"), first, relu);
        self.conv_onto(&format!("{name}.conv.4"), second, result, relu);
        self.tap(name, result);
        result
    }

    fn three_channels(&mut self, name: &str, image: ValueId) {
        let channels = self.value(image).channels;
        if channels != 3 {
            self.problems.push(format!("{name} has {channels} output channels, expected 3"));
        }
    }
}
