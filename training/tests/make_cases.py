"""Record small random models of every architecture for the other implementation:

    python tests/make_cases.py ../tests/fixtures

One folder each for a dense model, token choice, expert choice and a DDPM model, in the form of the cases that were
recorded from the official code (tests/fixtures/README.md).  `test_golden.py` holds the modules used here against those.
Routing has to stay the same when weights change by a few roundings, so that nothing in a case hangs on those."""

import copy
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

CLASSES, GUIDANCE = 10, 1.5
SHAPE = {"input_size": 8, "num_classes": CLASSES, "patch_size": 2, "depth": 2, "hidden_size": 24, "num_heads": 2,
         "mlp_ratio": 4, "use_swiglu": False}
MOE = {"num_experts": 4, "capacity": 1, "init_MoeMLP": False, "interleave": True}
CASES = {  # name: architecture, objective, shared experts as the official configuration of it says, seed
    "dense_flow": ("dense", "flow", None, 40),
    "tc_flow": ("tc", "flow", None, 41),
    "ec_flow": ("ec", "flow", 0, 42),
    "diffmoe_ddpm": ("diffmoe", "ddpm", 0, 45),
}
STEPS = {"flow": (4, 3), "ddpm": (5, 4)}
TIMES = {"flow": [0.1, 0.45, 0.8], "ddpm": [50.0, 480.0, 910.0]}


def random_model(case, seed):
    torch.manual_seed(seed)
    model = DiT(Config.from_dict(case)).eval()
    for w in model.parameters():
        if w.requires_grad:
            torch.nn.init.normal_(w, std=0.1 if w.dim() == 1 else 0.9 * w[0].numel() ** -0.5)
    for m in model.dynamic_layers().values():
        torch.nn.init.uniform_(m.expert_threshold, 0.35, 0.65)
    return model.requires_grad_(False)


def record(model, x, t, y, objective):
    """One forward pass, and the samplings."""
    io, hooks = {}, []
    for i, b in enumerate(model.blocks):
        hooks.append(b.register_forward_hook(lambda m, a, out, i=i: io.__setitem__(f"blocks.{i}.out", out[0].clone())))
        if i in model.dynamic_layers():
            keep = lambda m, a, out, i=i: io.__setitem__(f"blocks.{i}.moe_in", a[0].flatten(0, 1).clone())
            hooks.append(b.mlp.register_forward_hook(keep))
    routes = model.record()
    io["out"] = model(x, t, [y])[0]
    for i in model.dynamic_layers():
        r = routes[i]
        io[f"blocks.{i}.gate"], io[f"blocks.{i}.capacity"] = r["gate"], r["logits"].sigmoid()
        io[f"blocks.{i}.k"] = r["counts"].int()
        io[f"blocks.{i}.selected"] = r["selected"].to(torch.uint8)
    model.record(False)
    for h in hooks:
        h.remove()
    steps, heun_steps = STEPS[objective]
    if objective == "flow":
        io["euler_nocfg"] = reference_sampler.flow(model, x, [y], steps, 1.0, "euler")
        io["euler_cfg"] = reference_sampler.flow(model, x, [y], steps, GUIDANCE, "euler")
        io["heun_cfg"] = reference_sampler.flow(model, x, [y], heun_steps, GUIDANCE, "heun")
    else:
        draw = lambda n, seed: torch.randn(steps, n, *x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
        io["ddpm_nocfg_noise"], io["ddpm_cfg_noise"] = draw(len(x), 7), draw(2 * len(x), 8)
        io["ddpm_nocfg"] = reference_sampler.ddpm(model, x, [y], steps, noises=io["ddpm_nocfg_noise"])
        io["ddim_nocfg"] = reference_sampler.ddpm(model, x, [y], steps, ddim=True)
        # The second half of the official batch is thrown away; it is not recorded.
        io["ddpm_cfg"] = reference_sampler.ddpm(model, x, [y], steps, GUIDANCE, 3, noises=io["ddpm_cfg_noise"][:, :len(x)])
    return io


def check_robust(model, io, x, t, y, objective):
    """Weights that are off by a few roundings must route the same and give nearly the same samples."""
    for trial in range(3):
        torch.manual_seed(trial)
        other = copy.deepcopy(model)
        for w in other.parameters():
            w.mul_(1 + 3e-7 * torch.randn_like(w))
        for key, value in record(other, x, t, y, objective).items():
            if value.dtype in (torch.int32, torch.uint8):
                assert torch.equal(value, io[key]), f"{key}: routing depends on rounding, choose another seed"
            else:
                error = float((value - io[key]).abs().max()) / max(1.0, float(value.abs().max()))
                assert error < 2e-5, f"{key}: rounding changes it by {error:.1e}, choose another seed"


def main(root):
    for name, (kind, objective, shared, seed) in CASES.items():
        folder = os.path.join(root, name)
        os.makedirs(folder, exist_ok=True)
        moe = {} if kind == "dense" else {"MoE_config": {**MOE, "n_shared_experts": shared}}
        steps, heun_steps = STEPS[objective]
        case = {"kind": kind, "t_kind": objective, "steps": steps, "heun_steps": heun_steps, "cfg_scale": GUIDANCE,
                "null_class": CLASSES, "params": {**SHAPE, **moe}}
        model = random_model(case, seed)
        x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        t, y = torch.tensor(TIMES[objective]), torch.tensor([1, 7, CLASSES])
        io = record(model, x, t, y, objective)
        check_robust(model, io, x, t, y, objective)
        io.update(x=x, t=t, y=y.int())
        save_file({k: v.contiguous() for k, v in io.items()}, os.path.join(folder, "io.safetensors"))
        with open(os.path.join(folder, "case.json"), "w", encoding="utf-8") as f:
            json.dump(case, f, indent=1)
            f.write("\n")
        writing.write(os.path.join(folder, "model.safetensors"), case, export.folded(model))
        for file in os.listdir(folder):
            os.chmod(os.path.join(folder, file), 0o644)
        print(f"{name}: {sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)) / 1e3:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
