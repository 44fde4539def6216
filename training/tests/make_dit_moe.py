"""Record a small random DiT-MoE (Fei et al. 2024, arXiv 2407.11633) under the tensor names of its published checkpoints:

    python tests/make_dit_moe.py ../tests/fixtures/dit_moe

The module below follows the paper and takes names and layouts from the public code; the published checkpoints were not
available.  Every block is an MoE block.  Tokens choose the K = 2 experts with the largest softmax scores, which are not
renormalised.  The two shared experts are one SwiGLU network of width 2D."""

import sys

import torch
import torch.nn as nn

import reference_dit
import reference_sampler
from reference_dit import CLASSES, Block, Dit, Network, chosen, noise, observed, positions, randomise, write

EXPERTS, CHOSEN, SHARED, RATIO = 4, 2, 2, 4
STEPS, GUIDANCE, ROUTE_TIME, MARGIN, SEED = 5, 1.5, 480.0, 1e-4, 6


class Experts(nn.Module):
    def __init__(self, experts=EXPERTS, ratio=RATIO):
        super().__init__()
        dim = reference_dit.DIM
        self.experts = nn.ModuleList(Network(ratio * dim) for _ in range(experts))
        self.gate = nn.Linear(dim, experts, bias=False)
        self.shared_experts = Network(SHARED * dim)

    def forward(self, x):
        score = self.gate(x).softmax(-1)
        self.selected, self.margin = chosen(score, CHOSEN)
        weight = score * self.selected
        routed = sum(weight[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts))
        return routed + self.shared_experts(x)


def main(folder):
    torch.manual_seed(SEED)
    model = Dit(lambda i: Block("moe", Experts), positions()).eval()
    randomise(model)
    model.requires_grad_(False)
    margins = []
    for block in model.blocks:
        block.moe.register_forward_hook(lambda m, a, out: margins.append(m.margin))
    x, t, y = noise(SEED, 3), torch.tensor([50.0, 480.0, 910.0]), torch.tensor([1, 7, CLASSES])
    routes = {"out": model(x, torch.full((3,), ROUTE_TIME), [y])[0]}
    for i, block in enumerate(model.blocks):
        routes[f"blocks.{i}.selected"] = block.moe.selected.flatten(0, 1).to(torch.uint8)
    io = observed(model, x, t, y)
    io["ddpm_nocfg_noise"] = noise(7, STEPS, 3)
    io["ddpm_cfg_noise"] = noise(7, STEPS, 3)
    io["ddpm_nocfg"] = reference_sampler.ddpm(model, x, [y], STEPS, noises=io["ddpm_nocfg_noise"])
    io["ddpm_cfg"] = reference_sampler.ddpm(model, x, [y], STEPS, GUIDANCE, 3, noises=io["ddpm_cfg_noise"])
    io["ddim_nocfg"] = reference_sampler.ddpm(model, x, [y], STEPS, ddim=True)
    if min(margins) < MARGIN:
        raise SystemExit(f"a routing decision has a margin of {min(margins):.1e}: choose another seed")
    write(folder, model.state_dict(), io, routes, {
        "kind": "tc", "t_kind": "ddpm", "steps": STEPS, "heun_steps": 0, "cfg_scale": GUIDANCE, "null_class": CLASSES,
        "params": {"mlp_ratio": RATIO, "use_swiglu": True,
                   "MoE_config": {"num_experts": EXPERTS, "capacity": CHOSEN, "n_shared_experts": SHARED,
                                  "interleave": False}}})
    print(f"smallest margin {min(margins):.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
