"""Record a small random DiT-MoE (Fei et al. 2024, arXiv 2407.11633) in the form of its models XL and G, under the tensor names of
their published checkpoints:

    python tests/make_dit_moe_flow.py ../tests/fixtures/dit_moe_flow

The module below follows the paper and takes names and layouts from the public code; the published checkpoints were not
available.  It differs from that of ``make_dit_moe.py`` in that queries and keys are normalised with an epsilon of 1e-6, that
time runs from data to noise, and that the model predicts noise minus data.  Queries and keys are small here, so that the
epsilon matters."""

import math
import sys

import torch
import torch.nn as nn

import reference_dit
import reference_sampler
from make_dit_moe import CHOSEN, SHARED, Experts
from reference_dit import CLASSES, HEADS, Block, Forward, Reversed, noise, observed, positions, randomise, write

EXPERTS, RATIO, EPS, SMALL, DIM = 3, 1, 1e-6, 0.02, 8
STEPS, HEUN_STEPS, GUIDANCE, ROUTE_TIME, MARGIN, SEED = 4, 3, 1.5, 0.48, 1e-4, 3


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.Wqkv, self.out_proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.q_norm, self.k_norm = (nn.LayerNorm(DIM // HEADS, eps=EPS) for _ in range(2))

    def forward(self, x):
        q, k, v = self.Wqkv(x).unflatten(-1, (3, HEADS, DIM // HEADS)).permute(2, 0, 3, 1, 4)
        weight = (self.q_norm(q) @ self.k_norm(k).transpose(-1, -2) / math.sqrt(DIM // HEADS)).softmax(-1)
        return self.out_proj((weight @ v).transpose(1, 2).flatten(2))


def block(_):
    made = Block("moe", lambda: Experts(EXPERTS, RATIO))
    made.attn = Attention()
    return made


def main(folder):
    reference_dit.resize(DIM)
    torch.manual_seed(SEED)
    model = Reversed(block, positions()).eval()
    randomise(model)
    for made in model.blocks:
        for norm in (made.attn.q_norm, made.attn.k_norm):
            nn.init.normal_(norm.weight, 1.0, 0.3)
        made.attn.Wqkv.weight.data[: 2 * DIM] *= SMALL
        made.attn.Wqkv.bias.data[: 2 * DIM] *= SMALL
    model.requires_grad_(False)
    margins = []
    for made in model.blocks:
        made.moe.register_forward_hook(lambda m, a, out: margins.append(m.margin))
    x, t, y = noise(SEED, 2), torch.tensor([0.1, 0.8]), torch.tensor([7, CLASSES])
    model(x, torch.full((2,), ROUTE_TIME), [y])
    routes = {}
    for i, made in enumerate(model.blocks):
        routes[f"blocks.{i}.selected"] = made.moe.selected.flatten(0, 1).to(torch.uint8)
    io, velocity = observed(model, x, t, y), Forward(model)
    io["euler_nocfg"] = reference_sampler.flow(velocity, x, [y], STEPS, 1.0, "euler")
    io["euler_cfg"] = reference_sampler.flow(velocity, x, [y], STEPS, GUIDANCE, "euler")
    io["heun_cfg"] = reference_sampler.flow(velocity, x, [y], HEUN_STEPS, GUIDANCE, "heun")
    smallest = min(margins)
    if smallest < MARGIN:
        raise SystemExit(f"a routing decision has a margin of {smallest:.1e}: choose another seed")
    for made in model.blocks:
        for norm in (made.attn.q_norm, made.attn.k_norm):
            norm.eps = 1e-5
    other = float((model(x, t, [y])[0] - io["out"]).abs().max())
    for made in model.blocks:
        for norm in (made.attn.q_norm, made.attn.k_norm):
            norm.eps = EPS
    write(folder, model.state_dict(), io, routes, {
        "kind": "tc", "t_kind": "flow", "steps": STEPS, "heun_steps": HEUN_STEPS, "cfg_scale": GUIDANCE, "null_class": CLASSES,
        "params": {"mlp_ratio": RATIO, "use_swiglu": True, "qk_norm": True, "qk_norm_eps": EPS, "prediction": "reversed",
                   "MoE_config": {"num_experts": EXPERTS, "capacity": CHOSEN, "n_shared_experts": SHARED,
                                  "interleave": False}}})
    print(f"smallest margin {smallest:.1e}; with an epsilon of 1e-5 the output moves by {other:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
