"""Fine-tunes an exported flow model so that it loses less when it is rounded to int4:

    python -m diffmoe.train.rounded configs/emoji_256.toml MODEL.safetensors OUT.safetensors --data-root DATA --minutes 50

The unrounded model is the teacher, and the student starts as its copy.  Every forward pass of the student uses matrices
rounded as they will be in the file; gradients ignore the rounding (the straight-through estimator: Bengio, Leonard and
Courville, arXiv 1308.3432).  The student learns to reproduce the teacher's outputs for noised training images.  These targets
have no sampling noise, so little training is needed.  Routers, capacity predictors and thresholds are not trained.
In a model with a refiner, both transformers are trained, each at the times that it computes."""

import argparse
import copy
import os
import time

import torch
from torch.nn.utils import clip_grad_norm_

from ..formats import INT4_GROUP, decides_routing, encode, is_matrix
from ..files import REFINER
from ..writing import write
from . import config as configs
from . import data, flow
from .export import folded
from .exported import load_exported
from .heldout import TIMES

UNCONDITIONAL = 0.3  # share of samples without labels: guidance uses both predictions equally
WARMUP = 50  # steps


def rounded(w):
    """[..., K] rounded to int4 and back as by ``formats.to_int4``: in each group of 32 columns, the value of largest
    magnitude becomes -8, by a factor in f16."""
    groups = w.unflatten(-1, (-1, INT4_GROUP))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    most = torch.finfo(torch.half).max
    factor = (largest / -8).clamp(-most, most).half().float()
    numbers = torch.where(factor == 0, 0, groups / factor).round().clamp(-8, 7)
    return (numbers * factor).flatten(-2)


def matrices(model):
    """The parameters that files store in int4.  The weights of stacked experts have one more dimension."""
    return [w for name, w in model.named_parameters()
            if name.endswith("weight") and is_matrix(name, w.shape[-2:]) and w.shape[-1] % INT4_GROUP == 0]


class Rounding:
    """A context in which the matrices of a model are rounded; on exit, the exact ones are restored."""

    def __init__(self, model):
        self.weights = matrices(model)

    @torch.no_grad()
    def __enter__(self):
        self.exact = [w.data for w in self.weights]
        for w in self.weights:
            w.data = rounded(w.data)

    def __exit__(self, *_):
        for w, exact in zip(self.weights, self.exact):
            w.data = exact


class Part:
    """A transformer that learns to be rounded, and its teacher; it computes the times from ``first`` to ``last``."""

    def __init__(self, student, first, last):
        self.teacher, self.student, self.first, self.last = copy.deepcopy(student), student, first, last
        self.rounding = Rounding(student)
        self.learned = [w for name, w in student.named_parameters() if not decides_routing(name) and name != "pos_embed"]
        for w in self.learned:
            w.requires_grad_(True)
        for m in (self.teacher, self.student):
            m.set_rule("token")  # so that the samples of a batch do not depend on each other

    def loss(self, x, t, labels, train, noise):
        """The error of the rounded student against its teacher, weighted like the training error."""
        z = flow.mix(x, noise, t)
        with torch.no_grad():
            want = self.teacher(z, t, labels)[0][:, : x.shape[1]].float()
        said = self.student(z, t, labels)[0]
        target = want if self.teacher.prediction == "data" else want + noise
        return flow.flow_loss(said, target, noise, t, self.teacher.prediction, train.least_noise, train.gradient_weight).mean()

    @torch.no_grad()
    def errors(self, x, labels, noise):
        """[(time, the rounded student's error relative to the teacher's answer)] at the times of this part."""
        out = []
        with self.rounding:
            for time_ in TIMES:
                if self.first <= time_ < self.last:
                    t = torch.full((len(x),), time_)
                    z = flow.mix(x, noise, t)
                    want, said = (m(z, t, labels)[0][:, : x.shape[1]] for m in (self.teacher, self.student))
                    out.append((time_, ((said - want).norm() / want.norm()).item()))
        return out


def parts_of(model):
    """The transformers of a loaded file with the times that they compute."""
    if not model.config.refiner:
        return [Part(model, 0.0, 1.0)]
    from_ = model.config.refiner_from
    return [Part(model.base, 0.0, from_), Part(model.refiner, from_, 1.0)]


def report(parts, sample):
    errors = [pair for part in parts for pair in part.errors(*sample)]
    print("error of the rounded model, relative:  " + "  ".join(f"t={t:g}: {100 * e:.2f} %" for t, e in errors), flush=True)
    return errors


def fine_tune(parts, dataset, train, batch, lr, seconds=None, steps=None, amp=False, seed=0, save=None):
    """Trains until ``seconds`` have passed or for ``steps`` steps, a step of every part in turn; the rate rises in the first
    steps and then falls linearly to zero.  ``save`` is called now and then.  Returns the number of steps."""
    torch.manual_seed(seed)
    batches = data.Batches(dataset, batch, seed)
    g = torch.Generator().manual_seed(seed + 1)
    check = dataset.batch(torch.randperm(len(dataset), generator=g)[:64], generator=g)
    sample = (*check, torch.randn(check[0].shape, generator=g))
    optimisers = [torch.optim.AdamW(part.learned, lr=lr, betas=(0.9, 0.99), weight_decay=0.0) for part in parts]
    report(parts, sample)
    began = told = time.monotonic()
    step = 0
    while True:
        now = time.monotonic()
        done = step / steps if steps else (now - began) / seconds
        if done >= 1:
            break
        for part, optimiser in zip(parts, optimisers):
            x, labels = batches.next("cpu")
            labels = flow.drop_labels(labels, dataset.nulls, UNCONDITIONAL, 0.0)
            t = part.first + (part.last - part.first) * torch.rand(len(x))
            with part.rounding, torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = part.loss(x, t, labels, train, torch.randn_like(x))
                loss.backward()
            clip_grad_norm_(part.learned, 1.0)
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1, (step + 1) / WARMUP) * (1 - done)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step += 1
        if now - told > 300:
            told = now
            print(f"{step} steps, {(now - began) / 60:.0f} minutes; ", end="")
            report(parts, sample)
            if save:
                save()
    report(parts, sample)
    return step


def arrays_of(model, dtype="f32"):
    """The tensors of the file in this format."""
    if not model.config.refiner:
        return encode(folded(model), dtype)
    refiner = encode(folded(model.refiner), dtype)
    return encode(folded(model.base), dtype) | {REFINER + name: w for name, w in refiner.items()}


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="configuration of the training run: its data and the weights of its loss")
    p.add_argument("model")
    p.add_argument("out", help="the rounded model")
    p.add_argument("--dtype", choices=("int4", "f32"), default="int4", help="f32: the weights before they are rounded")
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--minutes", type=float, default=50)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--amp", action="store_true", help="bfloat16 where PyTorch's autocast allows it")
    a = p.parse_args(argv)
    config = configs.load(a.config)
    model, meta = load_exported(a.model)
    if model.config.objective != "flow" or model.config.text:
        p.error(f"{a.model}: only flow models with labels are supported")
    dataset = data.load_for(config, a.data_root)
    if [list(l.values) for l in dataset.labels] != [l["values"] for l in meta["labels"]]:
        p.error(f"{a.model} has other labels than the images of {a.config}")
    save = lambda: write(a.out, meta, arrays_of(model, a.dtype))
    steps = fine_tune(parts_of(model), dataset, config.train, a.batch, a.lr, 60 * a.minutes, amp=a.amp, save=save)
    save()
    print(f"{a.out}: {steps} steps of {a.batch} images for each part")


if __name__ == "__main__":
    main()
