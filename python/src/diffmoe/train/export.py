"""Export a checkpoint as one weights file for inference:

    python -m diffmoe.train.export runs/eurosat/last.pt eurosat.safetensors --data-root data

The EMA weights are written under the official names (see ``moe.to_official``);
composed label tables are folded into ordinary ones.  The header key ``diffmoe``
holds a JSON description of the model, including the tokenizer of a
text-conditioned one.  First the routing thresholds are recalibrated on noised
images with the EMA weights (``--no-recalibrate``: keep the training thresholds)."""

import argparse
import json
import os

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from . import config as configs
from . import data, flow, objective, prompts
from .exported import described_tokenizer, encoder_of, load_exported
from .model import ComposedEmbedder, DiT
from .moe import from_official, to_official
from .loop import build

# Routing compares these values, so they always stay in float32.
EXACT = ("gate_weight", "mlp.gate.weight", "expert_threshold", "capacity_predictor.")


def folded(model):
    """The official state dict of a model with its label tables folded."""
    state = dict(model.state_dict())
    for name, e in zip(model.label_names, model.label_embedders()):
        if isinstance(e, ComposedEmbedder):
            state[f"{name}.embedding_table.weight"] = e.table().detach()
            del state[f"{name}.shared"], state[f"{name}.mix"]
    return to_official(state)


def is_matrix(key, shape):
    """Whether a tensor is one of the large matrices, which int8 files store as I8 with one scale per row.
    The same rule as in the Rust program, so that both convert a file the same way."""
    return (len(shape) == 2 and key.startswith(("blocks.", "final_layer.adaLN", "text_encoder.layers."))
            and not any(s in key for s in ("capacity_predictor", "gate_weight", ".gate.weight")))


def encode(state, dtype):
    """{name: tensor} as stored: f32, f16, or int8 (+ NAME.scale)."""
    out = {}
    for key, w in state.items():
        w = w.detach().float().cpu()
        if dtype == "f32" or any(s in key for s in EXACT) or key.endswith("ema_decay"):
            out[key] = w
        elif dtype == "int8" and is_matrix(key, w.shape):
            scale = (w.abs().amax(1) / 127).clamp_min(1e-12)
            out[key] = (w / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
            out[key + ".scale"] = scale
        else:
            out[key] = w.half()
    return {k: v.contiguous() for k, v in out.items()}


def params(config):
    m = config.model
    p = {k: getattr(m, k) for k in ("input_size", "in_channels", "patch_size", "depth", "hidden_size",
                                    "num_heads", "mlp_ratio", "learn_sigma")}
    p["use_swiglu"] = m.use_swiglu
    if m.qk_norm:
        p["qk_norm"] = True
    if m.prediction != "velocity":
        p["prediction"] = m.prediction
    if m.detail_head:
        p["detail_head"] = {"channels": m.detail_head, **({"phase": True} if m.detail_phase else {})}
    if kind(config) != "dense":
        p["MoE_config"] = {"num_experts": m.num_experts, "capacity": m.capacity, "n_shared_experts": m.n_shared_experts,
                           "init_MoeMLP": False, "interleave": m.interleave}
    return p


def kind(config):
    return config.model.kind if config.model.num_experts else "dense"


def describe_text(config, tokenizer, dataset):
    """Shape of the text encoder, its tokenizer, and the known subjects and styles."""
    subjects, styles = (l.values for l in dataset.labels)
    phrases = [prompts.STYLE_PHRASES[s][0] for s in styles]
    known = [g for g in config.sample.grid if "*" in g] or [f"{s}, *" for s in subjects[: len(styles)]]
    examples = [g.replace("*", phrases[i % len(phrases)]) for i, g in enumerate(known)]
    return {**prompts.encoder_arguments(config.text, tokenizer), "examples": examples, "subjects": subjects,
            "styles": dict(zip(styles, phrases)), "tokenizer": json.loads(tokenizer.to_str())}


def describe(config, labels, card, text=None):
    m = config.model
    p = params(config)
    p["num_classes"] = len(labels[0].values) if labels else 0
    entries = []
    for l in labels:
        e = {"name": l.name, "tensor": l.tensor, "null": len(l.values), "values": list(l.values)}
        if l.groups:
            e["groups"] = list(l.groups)
        entries.append(e)
    s = config.sample
    more = {"text": text} if text else {}
    spin = {"cycle_spin": s.cycle_spin} if s.cycle_spin else {}
    return {"format": 1, "name": config.name, "kind": kind(config), "t_kind": config.train.objective,
            "time_scale": m.time_scale, "space": "latents" if config.data.kind == "latents" else "pixels", "params": p, "labels": entries,
            "defaults": {"steps": s.steps, "guidance": s.guidance, "solver": s.solver, **spin}, "card": card, **more}


def load_checkpoint(path, weights="ema"):
    """(EMA model, config, labels, checkpoint) of a training checkpoint; weights: "ema" or, if the run
    keeps one, the longer average "ema_long"."""
    ck = torch.load(path, map_location="cpu", weights_only=False)
    config = configs.from_dict(ck["config"])
    labels = [data.Labels(*l) for l in ck["labels"]]
    model = build(config.model, labels, prompts.encoder_arguments(config.text, tokenizer_of(ck)))
    if weights not in ck:
        raise ValueError(f"{path} has no weights {weights!r}: train.ema_long was not set in the run")
    model.load_state_dict(ck[weights])
    return model.eval().requires_grad_(False), config, labels, ck


def tokenizer_of(checkpoint):
    return Tokenizer.from_str(checkpoint["tokenizer"]) if checkpoint.get("tokenizer") else None


@torch.no_grad()
def noised_batches(dataset, nulls, config, n, batch, seed=1):
    """Noised images as in training (label dropout included)."""
    torch.manual_seed(seed)
    batches, undo, train = data.Batches(dataset, batch, seed), objective.make(config), config.train
    for _ in range(n):
        x, labels = batches.next("cpu")
        t = undo.draw_time(len(x), "cpu")
        yield undo.noised(x, torch.randn_like(x), t), t, flow.drop_labels(labels, nulls, train.drop_all, train.drop_single)


@torch.no_grad()
def recalibrate(model, batches, capacity, rounds=2):
    """Set every threshold to the quantile at which the expert takes its share
    capacity / E of the tokens over all batches; first with training routing,
    then repeated with the resulting thresholds."""
    batches = list(batches)
    layers = model.dynamic_layers()
    for r in range(1 + rounds):
        probs = {i: [] for i in layers}
        for m in layers.values():
            m.force_train_routing = r == 0
        rec = model.record()
        for x, t, labels in batches:
            model(x, t, labels)
            for i in layers:
                probs[i].append(rec[i]["logits"].sigmoid())
        for i, m in layers.items():
            p = torch.cat(probs[i])
            k = int(len(p) * capacity / m.num_experts)
            m.expert_threshold.copy_(p.topk(k + 1, dim=0).values[-1])  # exactly k lie above
            m.threshold_ready.fill_(1)
    for m in layers.values():
        m.force_train_routing = False
    model.record(False)


@torch.no_grad()
def capacities(model, x, t, labels):
    """Mean over the MoE layers of C = (expert-token pairs) / tokens."""
    rec = model.record()
    model(x, t, labels)
    c = [r["counts"].sum().item() / r["gate"].shape[0] for r in rec.values()]
    model.record(False)
    return sum(c) / len(c), c


@torch.no_grad()
def capacity_report(model, dataset, column, undo, n=64, seed=2):
    """{value: [C at each of ``objective.TIMES``, the share of data]} on noised images of that label value,
    plus the mean per MoE layer."""
    g = torch.Generator().manual_seed(seed)
    out, per_layer = {}, []
    for v, name in enumerate(dataset.labels[column].values):
        where = (dataset.columns[column] == v).nonzero()[:, 0]
        if not len(where):
            continue
        pick = where[torch.randperm(len(where), generator=g)[:n]]
        x, labels = dataset.batch(pick)
        noise = torch.randn(x.shape, generator=g)
        row = []
        for time in objective.TIMES:
            t = undo.at(torch.full((len(x),), time))
            c, layers = capacities(model, undo.noised(x, noise, t), t, labels)
            row.append(c)
            per_layer.append(layers)
        out[name] = row
    return out, torch.tensor(per_layer).mean(0).tolist()


@torch.no_grad()
def reference(model, meta, seed=3):
    """Inputs and outputs of one forward pass and, for a flow model, of two guided Heun steps (pool rule, batch of three)."""
    g = torch.Generator().manual_seed(seed)
    p = meta["params"]
    share = torch.tensor([0.15, 0.5, 0.85])
    io = {"x": torch.randn(3, p["in_channels"], p["input_size"], p["input_size"], generator=g),
          "t": objective.Ddpm().at(share).float() if meta["t_kind"] == "ddpm" else share}
    for key, l in zip(("y", "style"), meta["labels"]):
        io[key] = torch.tensor([1, l["null"] // 2, l["null"]], dtype=torch.int32)
    if "text" in meta:
        asked = [*meta["text"]["examples"], "", ""][:2] + [""]
        io["tokens"] = prompts.encode(described_tokenizer(meta), asked).int()
    model.set_rule("pool")
    rec = model.record()
    conditions = [io[k].long() for k in ("y", "style", "tokens") if k in io]
    io["out"], _ = model(io["x"], io["t"], conditions)
    for i, r in rec.items():
        io[f"blocks.{i}.selected"] = r["selected"].to(torch.uint8)
    model.record(False)
    if meta["t_kind"] == "flow":
        io["heun_cfg"] = flow.sample(model, io["x"], conditions, 2, 2.0, "heun")
    return {k: v.contiguous() for k, v in io.items()}


#: Architectures as `diffmoe convert` names them.
ARCHITECTURES = {"dense": "dit", "tc": "dit-moe-token-choice", "ec": "dit-moe-expert-choice", "diffmoe": "diffmoe"}


def header(meta):
    """Header entries: the description, and what other programs look for (PyTorch's format, ModelSpec)."""
    entries = {"diffmoe": json.dumps(meta, ensure_ascii=False), "format": "pt", "modelspec.sai_model_spec": "1.0.0",
               "modelspec.architecture": ARCHITECTURES[meta["kind"]], "modelspec.implementation": "diffmoe",
               "modelspec.title": meta["name"]}
    if meta.get("space") == "pixels":
        size = meta["params"]["input_size"]
        height, width = (size, size) if isinstance(size, int) else size
        entries["modelspec.resolution"] = f"{width}x{height}"
    if (meta.get("card") or {}).get("licence"):
        entries["modelspec.license"] = meta["card"]["licence"]
    return entries


def write(state, meta, path):
    save_file(state, path + ".tmp", metadata=header(meta))
    os.chmod(path + ".tmp", 0o644)
    os.replace(path + ".tmp", path)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint")
    p.add_argument("out")
    p.add_argument("--dtype", choices=["f32", "f16", "int8"], default="f16")
    p.add_argument("--weights", choices=["ema", "ema_long"], default="ema", help="which moving average to export")
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--no-recalibrate", action="store_true")
    p.add_argument("--reference", help="also write inputs and outputs of a forward pass to this file")
    p.add_argument("--report", help="also write the capacity report to this file (JSON)")
    p.add_argument("--report-images", type=int, default=64, help="images per label value and noise level")
    a = p.parse_args(argv)

    model, config, labels, ck = load_checkpoint(a.checkpoint, a.weights)
    capacity = config.model.capacity
    tokenizer = tokenizer_of(ck)
    report, dataset = {}, None
    a.no_recalibrate |= config.train.paper_thresholds
    dynamic = bool(model.dynamic_layers())
    if tokenizer or dynamic and not a.no_recalibrate:
        dataset = data.load_for(config, a.data_root, tokenizer=tokenizer)
    if dynamic and not a.no_recalibrate:
        recalibrate(model, noised_batches(dataset, dataset.nulls, config, 16, 64), capacity)
        fresh = noised_batches(dataset, dataset.nulls, config, 8, 64, seed=5)
        check = [capacities(model, *b)[0] for b in fresh]
        report["mean"] = sum(check) / len(check)
        print(f"mean capacity on fresh noised batches: {report['mean']:.3f}")
    before = ck.get("earlier", {})  # of the weights that the run started from
    card = dict(config.card, train_steps=ck["step"] + before.get("steps", 0),
                train_images=ck["images"] + before.get("images", 0),
                train_hours=round(ck["seconds"] / 3600 + before.get("hours", 0), 2),
                loss=round(ck["loss"], 4), capacity=round(report.get("mean", capacity), 3))
    text = describe_text(config, tokenizer, dataset) if tokenizer else None
    meta = describe(config, labels, card, text)
    full = folded(model)
    write(encode(full, a.dtype), meta, a.out)

    stored, meta = load_exported(a.out)
    exact = DiT(**{k: getattr(config.model, k) for k in config.model.__dict__},
                labels=[(l.prefix, len(l.values), None) for l in labels], text=encoder_of(meta)).eval()
    exact.load_state_dict(from_official(full))
    io = reference(stored, meta)
    ref = reference(exact, meta)
    diff = (io["out"] - ref["out"]).abs()
    flips = sum((io[k] != ref[k]).sum().item() for k in io if k.endswith(".selected"))
    pairs = sum(io[k].numel() for k in io if k.endswith(".selected"))
    print(f"{a.out}: {os.path.getsize(a.out):,} bytes, {sum(w.numel() for w in full.values()):,} values; "
          f"{a.dtype} against f32: max {diff.max():.4g}, mean {diff.mean():.4g}, "
          f"{flips} of {pairs} routing decisions differ")
    if a.reference:
        save_file(io, a.reference)
    if a.report:
        for split in ("train", "test"):
            ds = data.load_for(config, a.data_root, split, tokenizer)
            report[split] = {}
            for i, l in enumerate(ds.labels):
                rows, per_layer = capacity_report(stored, ds, i, objective.make(config), a.report_images)
                report[split][l.name] = rows
            report[split]["per_layer"] = per_layer
        report["times"] = objective.TIMES
        report["difference"] = {"max": diff.max().item(), "mean": diff.mean().item(), "flips": flips, "pairs": pairs}
        with open(a.report, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
