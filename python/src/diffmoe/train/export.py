"""Export a checkpoint as one weights file for inference:

    python -m diffmoe.train.export runs/eurosat/last.pt eurosat.safetensors --data-root data

The EMA weights are written as model files are (``diffmoe.weights``, ``diffmoe.formats``, ``diffmoe.writing``); composed
label tables are folded into ordinary ones.  First the routing thresholds are recalibrated on noised
images with the EMA weights (``--no-recalibrate``: keep the training thresholds)."""

import argparse
import json
import os

import torch
from safetensors.torch import save_file

from ..config import TABLE
from ..formats import FORMATS, encode
from ..writing import write
from . import config as configs
from . import data, describe, flow, objective, prompts, sampler
from .exported import described_reader, load_exported, loaded
from .loop import build, tokenizer_of
from .model import ComposedEmbedder
from .moe import to_official


def folded(model):
    """The tensors of a model's file, in f32, with its label tables folded."""
    state = dict(model.state_dict())
    for name, e in zip(model.label_names, model.label_embedders()):
        if isinstance(e, ComposedEmbedder):
            state[name + TABLE] = e.table().detach()
            del state[f"{name}.shared"], state[f"{name}.mix"]
    return arrays(to_official(state, model.config))


def arrays(state):
    """Tensors as arrays in f32."""
    return {k: w.detach().float().cpu().numpy() for k, w in state.items()}


def load_checkpoint(path, weights="ema"):
    """(EMA model, config, labels, checkpoint) of a training checkpoint; weights: "ema" or, if the run
    keeps one, the longer average "ema_long"."""
    ck = torch.load(path, map_location="cpu", weights_only=False)
    config = configs.from_dict(ck["config"])
    labels = [data.Labels(*l) for l in ck["labels"]]
    tokenizer = tokenizer_of(ck)
    text = prompts.section(config, tokenizer and prompts.Reader(tokenizer, config.text.max_length))
    model = build(config, labels, text)
    if weights not in ck:
        raise ValueError(f"{path} has no weights {weights!r}: train.ema_long was not set in the run")
    model.load_state_dict(ck[weights])
    return model.eval().requires_grad_(False), config, labels, ck


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
    config, size = model.config, model.grid * model.patch_size
    share = torch.tensor([0.15, 0.5, 0.85])
    io = {"x": torch.randn(3, model.in_channels, size, size, generator=g),
          "t": objective.Ddpm().at(share).float() if config.objective == "ddpm" else share}
    for key, table in zip(("y", "style"), config.labels):
        io[key] = torch.tensor([1, table.null // 2, table.null], dtype=torch.int32)
    if config.text:
        asked = [*config.text.examples, "", ""][:2] + [""]
        io["tokens"] = described_reader(meta).encode(asked).int()
    model.set_rule("pool")
    rec = model.record()
    conditions = [io[k].long() for k in ("y", "style", "tokens") if k in io]
    io["out"], _ = model(io["x"], io["t"], conditions)
    for i, r in rec.items():
        io[f"blocks.{i}.selected"] = r["selected"].to(torch.uint8)
    model.record(False)
    if config.objective == "flow":
        io["heun_cfg"] = sampler.sample(model, io["x"], conditions, 2, 2.0, "heun")
    return {k: v.contiguous() for k, v in io.items()}


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint")
    p.add_argument("out")
    p.add_argument("--dtype", choices=FORMATS, default="f16")
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
    text = prompts.described(config, dataset.prompter.reader, dataset) if tokenizer else None
    full = folded(model)
    write(a.out, describe.document(config, labels, card, text), encode(full, a.dtype))

    stored, meta = load_exported(a.out)
    exact = loaded(stored.config, full).eval()
    io = reference(stored, meta)
    ref = reference(exact, meta)
    diff = (io["out"] - ref["out"]).abs()
    flips = sum((io[k] != ref[k]).sum().item() for k in io if k.endswith(".selected"))
    pairs = sum(io[k].numel() for k in io if k.endswith(".selected"))
    print(f"{a.out}: {os.path.getsize(a.out):,} bytes, {sum(w.size for w in full.values()):,} values; "
          f"{a.dtype} against f32: max {diff.max():.4g}, mean {diff.mean():.4g}, "
          f"{flips} of {pairs} routing decisions differ")
    if a.reference:
        save_file(io, a.reference)
    if a.report:
        for split in ("train", "test") if stored.moe_layers() else ():  # a dense model has no capacities
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
