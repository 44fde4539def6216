"""Record a small random JiTMoE (Li and He 2025, arXiv 2511.13720; Liu et al. 2025, arXiv 2512.01252) under the tensor names of
its published code, and the same model in the native form of this project's files:

    python tests/make_jit.py ../tests/fixtures/jit_moe

The module below follows the papers and takes names and layouts from the public code; the published checkpoints were not
available.  It predicts pixels.  All norms are root-mean-square norms with weights; patches pass a bottleneck of K numbers;
networks are SwiGLU with biases, whose first matrix holds gate and up.  Odd blocks have experts with a sigmoid router, as in
DSMoE.  From block 1 on every sample has three more tokens: its label embedding plus a position.  They are neither rotated nor part of
the output.

``native`` folds weights of norms into the modulation that follows them and the bottleneck into one matrix, parts gate from up,
and reorders the rows of queries and keys, because this project's 2-D RoPE pairs other numbers of a head.  Norms of queries and
keys keep their weights.  Folding is computed in float64.  The answers come from the published form; the Python package has
to give the same from the native one."""

import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

import reference_sampler
from reference_dit import CLASSES, DIM, HEADS, PATCH, SIDE, Dit, SigmoidExperts, positions, randomise, write

from diffmoe import Pipeline

CHANNELS, DEPTH, BOTTLENECK, CONTEXT, START, RATIO = 3, 4, 6, 3, 1, 2.5
EXPERTS, CHOSEN, HIDDEN, SCALE, EPS = 6, 2, 24, 2.5, 1e-6
STEPS, HEUN_STEPS, GUIDANCE, ROUTE_TIME, MARGIN, SEED = 4, 3, 1.5, 0.48, 1e-4, 13
WIDTH, TOKENS = DIM // HEADS, (SIDE // PATCH) ** 2


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x):
        return self.weight * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()


class Network(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.w12, self.w3 = nn.Linear(DIM, 2 * hidden), nn.Linear(hidden, DIM)

    def forward(self, x):
        gate, up = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * up)


def routed():
    return SigmoidExperts(lambda: Network(HIDDEN), EXPERTS, CHOSEN, SCALE)


class Rotation(nn.Module):
    """2-D RoPE of neighbouring numbers: the first half of a head is turned by the row, the second by the column.  ``still``
    tokens, the first ones, are left as they are."""

    def __init__(self, still):
        super().__init__()
        frequency = 10000.0 ** (-4 * torch.arange(WIDTH // 4, dtype=torch.float64) / WIDTH)
        at = torch.arange(TOKENS, dtype=torch.float64)
        angle = torch.stack([at // (SIDE // PATCH), at % (SIDE // PATCH)], 1)[..., None] * frequency
        angle = F.pad(angle.flatten(1).repeat_interleave(2, 1), (0, 0, still, 0))
        self.register_buffer("freqs_cos", angle.cos().float())
        self.register_buffer("freqs_sin", angle.sin().float())

    def forward(self, x):
        even, odd = x[..., 0::2], x[..., 1::2]
        quarter_turn = torch.stack([-odd, even], -1).flatten(-2)
        return x * self.freqs_cos + quarter_turn * self.freqs_sin


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = RmsNorm(WIDTH), RmsNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x, turn):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4)
        q, k = turn(self.q_norm(q)), turn(self.k_norm(k))
        mixed = (q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


def modulated(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, feed_forward):
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = RmsNorm(DIM), RmsNorm(DIM), Attention(), feed_forward
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 6 * DIM))

    def forward(self, x, c, turn):
        part = self.adaLN_modulation(c).chunk(6, 1)
        x = x + part[2][:, None] * self.attn(modulated(self.norm1(x), *part[:2]), turn)
        return x + part[5][:, None] * self.mlp(modulated(self.norm2(x), *part[3:5]))


class Jit(nn.Module):
    """With the interface of the trainer's samplers, as ``reference_dit.Dit``."""

    prediction, in_channels = "data", CHANNELS
    null_labels = Dit.null_labels

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(positions(), requires_grad=False)
        self.in_context_posemb = nn.Parameter(torch.empty(1, CONTEXT, DIM))
        self.x_embedder, self.t_embedder, self.y_embedder = nn.Module(), nn.Module(), nn.Module()
        self.x_embedder.proj1 = nn.Conv2d(CHANNELS, BOTTLENECK, PATCH, PATCH, bias=False)
        self.x_embedder.proj2 = nn.Conv2d(BOTTLENECK, DIM, 1)
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, DIM), nn.SiLU(), nn.Linear(DIM, DIM))
        self.y_embedder.embedding_table = nn.Embedding(CLASSES + 1, DIM)
        self.feat_rope, self.feat_rope_incontext = Rotation(0), Rotation(CONTEXT)
        self.blocks = nn.ModuleList(Block(routed() if i % 2 else Network(int(RATIO * DIM))) for i in range(DEPTH))
        self.final_layer = nn.Module()
        self.final_layer.norm_final = RmsNorm(DIM)
        self.final_layer.linear = nn.Linear(DIM, PATCH * PATCH * CHANNELS)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 2 * DIM))

    def forward(self, x, t, labels, *_):
        angle = t.float()[:, None] * 10000.0 ** (-torch.arange(128) / 128)
        label = self.y_embedder.embedding_table(labels[0])
        c = self.t_embedder.mlp(torch.cat([angle.cos(), angle.sin()], 1)) + label
        h = self.x_embedder.proj2(self.x_embedder.proj1(x)).flatten(2).transpose(1, 2) + self.pos_embed
        for i, block in enumerate(self.blocks):
            if i == START:
                h = torch.cat([label[:, None] + self.in_context_posemb, h], 1)
            h = block(h, c, self.feat_rope if i < START else self.feat_rope_incontext)
        last = self.final_layer
        h = last.linear(modulated(last.norm_final(h[:, CONTEXT:]), *last.adaLN_modulation(c).chunk(2, 1)))
        side = SIDE // PATCH
        h = h.view(len(x), side, side, PATCH, PATCH, CHANNELS).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(len(x), CHANNELS, SIDE, SIDE), 0.0


def native(published):
    """The tensors of a published state_dict in the form of this project's files."""
    w = {name.removeprefix("net."): x.double() for name, x in published.items() if "feat_rope" not in name}
    first, second = w.pop("x_embedder.proj1.weight"), w.pop("x_embedder.proj2.weight")[:, :, 0, 0]
    w["x_embedder.proj.weight"] = (second @ first.flatten(1)).unflatten(1, first.shape[1:])
    w["x_embedder.proj.bias"] = w.pop("x_embedder.proj2.bias")
    for i in range(DEPTH):
        for part, norm in ((1, "norm1"), (4, "norm2")):
            fold(w, f"blocks.{i}.adaLN_modulation.1", part, w.pop(f"blocks.{i}.{norm}.weight"))
        for name in ("q_norm.weight", "k_norm.weight", "qkv.weight", "qkv.bias"):
            w[f"blocks.{i}.attn.{name}"] = reordered(w[f"blocks.{i}.attn.{name}"])
    fold(w, "final_layer.adaLN_modulation.1", 1, w.pop("final_layer.norm_final.weight"))
    out = {}
    for name, x in w.items():
        name = name.replace(".experts.blocks.", ".experts.").replace(".w3.", ".down_proj.")
        parts = {name.replace(".w12.", f".{part}."): x for part, x in zip(("gate_proj", "up_proj"), x.chunk(2))}
        out |= parts if ".w12." in name else {name: x}
    return {name: x.float().contiguous() for name, x in out.items()}


def fold(w, name, part, weight):
    """``w·(1 + scale)`` as ``1 + scale'``: the scales are a part of an adaLN layer's rows."""
    rows = slice(part * DIM, (part + 1) * DIM)
    w[f"{name}.weight"][rows] *= weight[:, None]
    w[f"{name}.bias"][rows] = weight * w[f"{name}.bias"][rows] + weight - 1


def reordered(x):
    """Rows of the queries and keys of each head, so that numbers i and i + d/4 of each half were 2i and 2i + 1."""
    heads = x[: len(x) // WIDTH * WIDTH].unflatten(0, (-1, 2, WIDTH // 4, 2))
    turned = heads.transpose(2, 3)
    if len(x) > WIDTH:  # queries, keys and values
        turned = torch.cat([turned[: 2 * HEADS], heads[2 * HEADS :].reshape(turned[2 * HEADS :].shape)])
    return turned.reshape(x.shape)


def observed(model, x, t, y):
    """Input, output and the image's tokens after every block of one pass."""
    io = {"x": x, "t": t, "y": y.int()}
    hooks = [block.register_forward_hook(lambda m, a, out, i=i: io.__setitem__(f"blocks.{i}.out", out[:, -TOKENS:].clone()))
             for i, block in enumerate(model.blocks)]
    io["out"] = model(x, t, [y])[0]
    for hook in hooks:
        hook.remove()
    return io


def main(folder):
    torch.manual_seed(SEED)
    model = Jit().eval()
    randomise(model)
    experts = {i: model.blocks[i].mlp for i in range(1, DEPTH, 2)}
    for layer in experts.values():
        nn.init.normal_(layer.gate.e_score_correction_bias, std=0.1)
    for module in model.modules():
        if isinstance(module, RmsNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.2)
    model.requires_grad_(False)
    margins = []
    for layer in experts.values():
        layer.register_forward_hook(lambda m, a, out: margins.append(m.margin))
    x = torch.randn(3, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(SEED))
    t, y = torch.tensor([0.1, 0.45, 0.8]), torch.tensor([1, 7, CLASSES])
    routes = {"out": model(x, torch.full((3,), ROUTE_TIME), [y])[0]}
    for i, layer in experts.items():
        routes[f"blocks.{i}.selected"] = layer.selected[:, -TOKENS:].flatten(0, 1).to(torch.uint8)
    moved = {i: layer.moved for i, layer in experts.items()}
    io = observed(model, x, t, y)
    io["euler_nocfg"] = reference_sampler.flow(model, x, [y], STEPS, 1.0, "euler")
    io["euler_cfg"] = reference_sampler.flow(model, x, [y], STEPS, GUIDANCE, "euler")
    io["heun_cfg"] = reference_sampler.flow(model, x, [y], HEUN_STEPS, GUIDANCE, "heun")
    if min(margins) < MARGIN or min(moved.values()) == 0:
        raise SystemExit(f"smallest margin {min(margins):.1e}, tokens moved by the bias {moved}: choose another seed")
    published = {f"net.{name}": x.contiguous() for name, x in model.state_dict().items()}
    os.makedirs(folder, exist_ok=True)
    save_file(published, os.path.join(folder, "published.safetensors"))
    write(folder, native(published), io, routes, {
        "kind": "tc", "t_kind": "flow", "time_scale": 1.0, "space": "pixels", "steps": STEPS, "heun_steps": HEUN_STEPS,
        "cfg_scale": GUIDANCE, "null_class": CLASSES,
        "params": {"in_channels": CHANNELS, "depth": DEPTH, "mlp_ratio": RATIO, "use_swiglu": True, "swiglu_bias": True,
                   "norm_type": "rmsnorm", "rope_type": "2d", "pos_embed": True, "qk_norm": True, "qk_norm_eps": EPS,
                   "learn_sigma": False, "prediction": "data", "context_tokens": CONTEXT, "context_start": START,
                   "MoE_config": {"router": "sigmoid", "num_experts": EXPERTS, "capacity": CHOSEN,
                                  "moe_intermediate_size": HIDDEN, "routed_scaling_factor": SCALE,
                                  "n_group": 2, "topk_group": 2, "interleave": True}}})
    forward = Pipeline.from_pretrained(folder).model.forward
    error = float(np.abs(forward(x.numpy(), t.numpy(), [y.numpy()])[0] - io["out"].numpy()).max())
    if not error < 1e-5:
        raise SystemExit(f"the native form differs by {error:.1e}")
    print(f"smallest margin {min(margins):.1e}; tokens moved by the bias {moved}; the native form differs by {error:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
