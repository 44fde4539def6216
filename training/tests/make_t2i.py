"""Record a tiny random text-to-image case for the other implementation:

    python tests/make_t2i.py ../tests/fixtures/t2i_tiny
    python tests/make_t2i.py ../tests/fixtures/t2i_bpe bpe     # with another kind of tokenizer

Odd numbers of image and text tokens, an empty prompt, an unknown word, a prompt
that is cut, and a negative prompt.  Nothing in it hangs by a thread: every
routing decision has a margin far above rounding errors."""

import json
import os
import sys

import torch
from safetensors.torch import save_file

import checkout  # noqa: F401 - finds the package
import reference_sampler
from diffmoe import Config, writing
from diffmoe.train import export, exported, prompts
from diffmoe.train.model import DiT

PROMPTS = ["A Robot, fluent 3D", "", "piñata: a red robot on a xylophone, in flat style of the flat robot"]
NEGATIVE = "blob"
STEPS, HEUN_STEPS, GUIDANCE = 3, 2, 1.8
SHAPE = {"input_size": 6, "in_channels": 3, "patch_size": 2, "depth": 2, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2}
MOE = {"num_experts": 4, "capacity": 1, "n_shared_experts": 0, "init_MoeMLP": False, "interleave": True}
ENCODER = {"max_length": 11, "hidden_size": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
CORPUS = ["a robot", "a red fox", "fluent 3d", "flat style", "in the style of", "blob", "piñata", "robot, fluent 3d"]


def random_model(case):
    torch.manual_seed(20)
    model = DiT(Config.from_dict(case)).eval()
    for name, w in model.named_parameters():
        if w.requires_grad:
            # Wide enough that text, time and routing all leave clear marks on the output.
            torch.nn.init.normal_(w, std=0.1 if w.dim() == 1 else 0.9 * w[0].numel() ** -0.5)
    for m in model.moe_layers().values():
        torch.nn.init.uniform_(m.expert_threshold, 0.35, 0.65)
    return model.requires_grad_(False)


MARGIN = 3e-5


def watch_margins(model):
    """Smallest distance of any routing decision from its opposite, over all passes to come."""
    smallest = [1.0]

    def look(m, a, y):
        r = m.record
        p = (r["logits"].sigmoid() - m.expert_threshold).abs().min()
        gaps = [g[n - 1] - g[n] for g, n in zip(r["gate"].sort(0, descending=True).values.t(), r["counts"]) if 0 < n < len(g)]
        smallest[0] = min([smallest[0], float(p), *map(float, gaps)])

    for m in model.moe_layers().values():
        m.register_forward_hook(look)
    return smallest


def record(model, x, t, tokens):
    """One forward pass and everything on the way."""
    io, hooks = {}, []
    keep = lambda key, pick=lambda y: y: lambda m, a, y: io.__setitem__(key, pick(y).clone())
    hooks.append(model.text_encoder.register_forward_hook(keep("text.out", lambda y: y[0])))
    hooks.append(model.text_pool.register_forward_hook(keep("text.pooled")))
    for i, b in enumerate(model.blocks):
        hooks.append(b.cross_attn.kv_linear.register_forward_hook(keep(f"blocks.{i}.kv")))
        hooks.append(b.register_forward_hook(keep(f"blocks.{i}.out", lambda y: y[0])))
        if i in model.moe_layers():
            hooks.append(b.mlp.register_forward_hook(
                lambda m, a, y, i=i: io.__setitem__(f"blocks.{i}.moe_in", a[0].flatten(0, 1).clone())))
    routes = model.record()
    io["out"] = model(x, t, [tokens])[0]
    assert routes, "the case needs a layer that routes"
    for i, r in routes.items():
        io[f"blocks.{i}.gate"], io[f"blocks.{i}.capacity"] = r["gate"], r["logits"].sigmoid()
        io[f"blocks.{i}.k"] = r["counts"].int()
        io[f"blocks.{i}.selected"] = r["selected"].to(torch.uint8)
    for h in hooks:
        h.remove()
    return io


def main(folder, kind="wordpiece"):
    weights = os.path.join(folder, "model.safetensors")
    if os.path.exists(weights):  # the tokenizer is kept: training it again gives another one
        tokenizer = exported.read_description(weights)["text"]["tokenizer"]
    else:
        tokenizer = prompts.train_tokenizer(CORPUS, {"wordpiece": 90, "bpe": 320}[kind], ENCODER["max_length"], kind)
    reader = prompts.Reader(tokenizer, ENCODER["max_length"])
    case = {"kind": "diffmoe", "t_kind": "flow", "time_scale": 1000.0, "space": "pixels", "steps": STEPS,
            "heun_steps": HEUN_STEPS, "cfg_scale": GUIDANCE, "prompts": PROMPTS, "negative": NEGATIVE,
            "params": {**SHAPE, "num_classes": 0, "use_swiglu": False, "learn_sigma": False, "MoE_config": MOE}, "labels": [],
            "text": {"vocab_size": reader.entries, **ENCODER, "examples": PROMPTS[:1], "tokenizer": tokenizer}}
    model = random_model(case)
    smallest = watch_margins(model)
    g = torch.Generator().manual_seed(21)
    x, t = torch.randn(3, 3, 6, 6, generator=g), torch.tensor([0.15, 0.5, 0.85])
    tokens = reader.encode(PROMPTS)
    negative = reader.encode([NEGATIVE] * 3)
    io = {"x": x, "t": t, "tokens": tokens.int(), "negative_tokens": negative.int(), **record(model, x, t, tokens)}
    io["euler_nocfg"] = reference_sampler.flow(model, x, [tokens], STEPS, 1.0, "euler")
    io["euler_cfg"] = reference_sampler.flow(model, x, [tokens], STEPS, GUIDANCE, "euler", [negative])
    io["heun_cfg"] = reference_sampler.flow(model, x, [tokens], HEUN_STEPS, GUIDANCE, "heun", [negative])
    if smallest[0] < MARGIN:
        raise SystemExit(f"a routing decision has a margin of {smallest[0]:.1e}: choose other seeds")
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.contiguous() for k, v in io.items()}, os.path.join(folder, "io.safetensors"))
    with open(os.path.join(folder, "case.json"), "w", encoding="utf-8") as f:
        json.dump(case, f, ensure_ascii=False)
        f.write("\n")
    writing.write(weights, case, export.folded(model))
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)
    names = {number: entry for entry, number in tokenizer["model"]["vocab"].items()}
    print(f"smallest margin {smallest[0]:.1e};", [names[number] for number in tokens[2].tolist()], reader.entries)


if __name__ == "__main__":
    main(*sys.argv[1:])
