"""Images from a weights file, with the compute spent on each, and the loss on real
images by noise level."""

import hashlib
import json
import os
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ...config import Config
from .. import objective, sampler


class Counting:
    """Wraps a model and counts, per image, the expert-token pairs per token of its
    conditional passes (not the unconditional passes of guidance)."""

    def __init__(self, model):
        self.model, self.total, self.passes = model, 0, 0
        self.records = model.record()

    @property
    def config(self):
        return self.model.config

    def null_labels(self, *a):
        return self.model.null_labels(*a)

    def begin_step(self, t):
        sampler.begin_step(self.model, t)

    def __call__(self, z, t, labels):
        out = self.model(z, t, labels)
        null = all(torch.equal(y, n) for y, n in zip(labels, self.model.null_labels(len(z), z.device)))
        if not null and self.records:
            pairs = [r["selected"].reshape(len(z), -1).sum(1) / (r["selected"].shape[0] / len(z))
                     for r in self.records.values()]
            self.total = self.total + torch.stack(pairs).mean(0)
            self.passes += 1
        return out


def settings(meta, a):
    """Sampling settings: the arguments, or else the file's defaults."""
    config = Config.from_dict(meta)
    pick = lambda v, key: config.defaults[key] if v is None else v
    out = {"steps": pick(a.steps, "steps"), "guidance": pick(a.guidance, "guidance"),
           "solver": pick(a.solver, "scheduler"), "rule": a.rule, "batch": a.batch, "seed": a.seed}
    if getattr(a, "interval", None):
        out["interval"] = list(a.interval)
    if getattr(a, "shifts", 1) > 1:
        out["cycle_spin"] = [a.shifts, a.shifts_from]
    return out


def generate(model, columns, s, negative=None):
    """columns: one list of label indices per table, or the prompts' tokens; s: see ``settings``; negative: the same for the
    unconditional passes, where they get something.

    Returns (images [N, 3, s, s] rounded to 8 bits and clamped, in [-1, 1]; C of each [N], nan for a dense model;
    seconds)."""
    model.set_rule(s["rule"], s.get("gamma"))
    columns = [torch.as_tensor(c) for c in columns]
    n, size = len(columns[0]), model.grid * model.patch_size
    z = torch.randn(n, model.in_channels, size, size, generator=torch.Generator().manual_seed(s["seed"]))
    more = {k: s[k] for k in ("interval", "cycle_spin") if k in s}
    x, compute, start = [], [], time.process_time()
    for i in range(0, n, s["batch"]):
        counting = Counting(model)
        part = lambda columns: [c[i : i + s["batch"]] for c in columns]
        x.append(sampler.sample(counting, z[i : i + s["batch"]], part(columns), s["steps"], s["guidance"], s["solver"],
                                negative and part(negative), part=i // s["batch"], **more))
        compute.append(counting.total / counting.passes if counting.passes else torch.full((len(x[-1]),), float("nan")))
    model.record(False)
    x = ((torch.cat(x).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return x, torch.cat(compute), time.process_time() - start


def kept(folder, name, sha256, model, columns, s, negative=None):
    """``generate`` with a cache: images with the same weights, labels and settings are read from the folder."""
    if not folder:
        return generate(model, columns, s, negative)
    wanted = json.dumps([name, sha256, s, *([c.tolist() for c in map(torch.as_tensor, part)]
                                            for part in (columns, negative) if part)])
    path = os.path.join(folder, f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}.safetensors")
    if not os.path.exists(path):
        x, compute, seconds = generate(model, columns, s, negative)
        os.makedirs(folder, exist_ok=True)
        bytes_ = ((x + 1) * 127.5).round().to(torch.uint8)
        save_file({"pictures": bytes_, "compute": compute}, path, metadata={"seconds": f"{seconds:.1f}"})
    with safe_open(path, "pt") as f:
        x, compute = f.get_tensor("pictures").float() / 127.5 - 1, f.get_tensor("compute")
        return x, compute, float(f.metadata()["seconds"])


@torch.no_grad()
def loss_by_noise(model, dataset, n, seed, batch=64, undo=None):
    """{t: mean training loss} on up to n real images with their labels, one noise sample each; t is the
    share of data, as in ``objective``.  undo: the objective, flow by default (loss of the velocity)."""
    undo = undo or objective.Flow(prediction=model.prediction)
    g = torch.Generator().manual_seed(seed)
    pick = torch.randperm(len(dataset), generator=g)[:n]
    sums = dict.fromkeys(objective.TIMES, 0.0)
    for i in range(0, len(pick), batch):
        x, labels = dataset.batch(pick[i : i + batch], generator=g)
        noise = torch.randn(x.shape, generator=g)
        for t in objective.TIMES:
            tt = undo.at(torch.full((len(x),), t))
            sums[t] += undo.loss(model(undo.noised(x, noise, tt), tt, labels)[0], x, noise, tt).sum().item()
    return {"n": len(pick), "loss": {str(t): v / len(pick) for t, v in sums.items()}}


def identity(path, meta):
    """Identifies the evaluated file without its path."""
    with open(path, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    card = meta.get("card", {})
    return {"model": meta["name"], "sha256": digest, **{k: card[k] for k in ("train_images", "train_steps") if k in card}}
