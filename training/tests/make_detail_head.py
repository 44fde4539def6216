"""Record a tiny random model with a detail head for the other implementation:

    python tests/make_detail_head.py ../tests/fixtures/detail_head

Nine tokens of 3x3 pixels, a head whose width is no multiple of four, samples at three times with labels and the null label.  Every
routing decision has a margin far above rounding errors."""

import json
import os
import sys

import torch
from safetensors.torch import save_file

import checkout  # noqa: F401 - finds the package
import reference_sampler
from diffmoe import Config, writing
from diffmoe.train import export
from diffmoe.train.model import DiT
from make_t2i import MARGIN, watch_margins

STEPS, HEUN_STEPS, GUIDANCE, CLASSES, CHANNELS = 3, 2, 1.8, 3, 6
INTERVAL = (0.3, 0.6)
SHAPE = {"input_size": 9, "in_channels": 3, "patch_size": 3, "depth": 2, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1}
MOE = {"num_experts": 4, "capacity": 1, "n_shared_experts": 0, "init_MoeMLP": False, "interleave": True}


CASE = {"kind": "diffmoe", "t_kind": "flow", "time_scale": 1000.0, "space": "pixels", "steps": STEPS,
        "heun_steps": HEUN_STEPS, "cfg_scale": GUIDANCE, "interval": INTERVAL, "null_class": CLASSES,
        "params": {**SHAPE, "num_classes": CLASSES, "use_swiglu": False, "learn_sigma": False, "prediction": "data",
                   "detail_head": {"channels": CHANNELS, "phase": True}, "MoE_config": MOE}}


def random_model(seed=30):
    torch.manual_seed(seed)
    model = DiT(Config.from_dict(CASE)).eval()
    for _, w in model.named_parameters():
        if w.requires_grad:
            torch.nn.init.normal_(w, std=0.1 if w.dim() == 1 else 0.9 * w[0].numel() ** -0.5)
    for m in model.moe_layers().values():
        torch.nn.init.uniform_(m.expert_threshold, 0.35, 0.65)
    return model.requires_grad_(False)


def record(model, x, t, y):
    """One forward pass, and the image before the head."""
    io, hooks = {}, []
    head = model.detail_head
    hooks.append(head.register_forward_hook(lambda m, a, out: io.__setitem__("detail_head.x", a[0].clone())))
    for i, b in enumerate(model.blocks):
        hooks.append(b.register_forward_hook(lambda m, a, out, i=i: io.__setitem__(f"blocks.{i}.out", out[0].clone())))
    routes = model.record()
    io["out"] = model(x, t, [y])[0]
    for i, r in routes.items():
        io[f"blocks.{i}.gate"], io[f"blocks.{i}.capacity"] = r["gate"], r["logits"].sigmoid()
        io[f"blocks.{i}.k"] = r["counts"].int()
        io[f"blocks.{i}.selected"] = r["selected"].to(torch.uint8)
    for h in hooks:
        h.remove()
    return io


def main(folder):
    model = random_model()
    smallest = watch_margins(model)
    x = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(31))
    t, y = torch.tensor([0.15, 0.5, 0.95]), torch.tensor([0, 2, CLASSES])
    io = {"x": x, "t": t, "y": y.int(), **record(model, x, t, y)}
    io["euler_nocfg"] = reference_sampler.flow(model, x, [y], STEPS, 1.0, "euler")
    io["euler_cfg"] = reference_sampler.flow(model, x, [y], STEPS, GUIDANCE, "euler")
    io["heun_cfg"] = reference_sampler.flow(model, x, [y], HEUN_STEPS, GUIDANCE, "heun")
    # Of three steps the second is guided.
    io["euler_interval"] = reference_sampler.flow(model, x, [y], STEPS, GUIDANCE, "euler", interval=INTERVAL)
    if smallest[0] < MARGIN:
        raise SystemExit(f"a routing decision has a margin of {smallest[0]:.1e}: choose other seeds")
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.contiguous() for k, v in io.items()}, os.path.join(folder, "io.safetensors"))
    with open(os.path.join(folder, "case.json"), "w", encoding="utf-8") as f:
        json.dump(CASE, f, indent=1)
        f.write("\n")
    writing.write(os.path.join(folder, "model.safetensors"), CASE, export.folded(model))
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)
    moved = (io["out"] - io["detail_head.x"]).square().mean().sqrt()
    print(f"smallest margin {smallest[0]:.1e}; the head moves the image by {moved:.2f} (RMS)")


if __name__ == "__main__":
    main(*sys.argv[1:])
