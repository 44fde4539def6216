"""The paper's comparison in miniature: dense, token-choice, expert-choice and
DiffMoE models of equal activated size, trained and evaluated the same way.

    python -m diffmoe.train.compare configs/miniature_eurosat.toml --data-root DATA --results ../docs/results/miniature

Writes one JSON file per (architecture, seed) and skips existing ones, so the
command can be interrupted and repeated.  ``evaluate render`` makes tables and
curves from the files."""

import argparse
import csv
import json
import os
import time

import torch

from ..config import KINDS
from . import config as configs
from . import export, objective
from .evaluate import eurosat, generate, probe, stats
from .loop import Trainer
from .moe import Experts

RULES = {"diffmoe": ["pool", "token", "static"]}
GAMMAS = [0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.01]


def parameters(model):
    """(stored, activated for a token that one expert of each layer takes), router and predictor included."""
    stored = sum(p.numel() for p in model.parameters())
    spare = 0
    for m in model.modules():
        if isinstance(m, Experts):
            bank = sum(p.numel() for name, p in m.named_parameters(recurse=False) if name.startswith("experts_"))
            spare += bank * (m.num_experts - 1) // m.num_experts
    return stored, stored - spare


def curve(folder):
    """[[images, loss]] of a run's log."""
    with open(os.path.join(folder, "log.csv"), newline="") as f:
        return [[int(r["images"]), float(r["loss"])] for r in csv.DictReader(f)]


class Judge:
    """The judges shared by all runs on a data set."""

    def __init__(self, c, a):
        self.a, self.undo, self.solver = a, objective.make(c), c.sample.solver
        augment = {"none": "flip"}.get(c.data.augment, c.data.augment)
        (self.train, self.test), (_, self.test_set) = eurosat.load(a.data_root, c.data.image_size, c.data.path)
        classes = len(self.test_set.labels[0].values)
        name = os.path.splitext(os.path.basename(c.data.path))[0]
        self.witness, self.report = probe.kept(
            a.probes, f"{name}.pt", lambda: eurosat.make_probe(self.train, self.test, classes, augment=augment))
        self.real = stats.moments(probe.features(self.witness, self.train[0]))
        pick = torch.randperm(len(self.test[0]), generator=torch.Generator().manual_seed(0))[: a.images]
        self.scale = stats.frechet(stats.moments(probe.features(self.witness, self.test[0][pick])), self.real)
        self.asked = torch.arange(a.images) % classes

    def images(self, model, rule, gamma=None):
        s = {"steps": self.a.steps, "guidance": 1.0, "solver": self.solver, "rule": rule, "gamma": gamma, "batch": 64,
             "seed": 0}
        made, compute, _ = generate.generate(model, [self.asked], s)
        found = probe.predict(self.witness, made)[0]
        return {"n": len(made), "C": None if compute.isnan().any() else float(compute.mean()),  # None: no experts
                "frechet": stats.frechet(stats.moments(probe.features(self.witness, made)), self.real),
                "class": stats.share(found == self.asked)["share"]}

    def loss(self, model, rule):
        model.set_rule(rule)
        return generate.loss_by_noise(model, self.test_set, self.a.validation, 0, undo=self.undo)["loss"]


def one_run(c, a, judge, architecture, seed):
    c.model.kind, c.train.seed = architecture, seed
    folder = os.path.join(a.out, f"{c.name}-{architecture}-{seed}")
    start = time.process_time()
    trainer = Trainer(c, a.data_root, folder, resume=True)
    trainer.train()
    seconds = time.process_time() - start
    model = trainer.ema.model.eval()
    stored, activated = parameters(model)
    if model.dynamic_layers():
        batches = export.noised_batches(trainer.dataset, trainer.dataset.nulls, c, 16, 64)
        export.recalibrate(model, batches, c.model.capacity)
    rules = [r for r in RULES.get(architecture, ["pool"]) if r in a.rules]
    out = {"kind": "miniature" if c.train.objective == "flow" else f"miniature_{c.train.objective}", "data": c.name,
           "architecture": architecture, "seed": seed,
           "parameters": stored, "activated": activated, "images": trainer.images, "steps": trainer.step,
           "batch": c.train.batch, "lr": c.train.lr, "depth": c.model.depth, "hidden_size": c.model.hidden_size,
           "num_experts": c.model.num_experts,
           **({"t_dist": c.train.t_dist} if c.train.objective == "flow" else {}),
           "cpu_seconds": round(seconds, 1), "curve": curve(folder),
           "sampling": {"solver": c.sample.solver, "steps": a.steps, "guidance": 1.0},
           "probe": judge.report["unseen"], "frechet_of_real": judge.scale,
           "validation": {r: judge.loss(model, r) for r in rules}, "validation_n": a.validation,
           "pictures": {r: judge.images(model, r) for r in rules}}
    if a.gammas and model.dynamic_layers():
        out["gamma"] = {str(g): judge.images(model, "pool", g) for g in GAMMAS}
    return out


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--out", default="runs", help="checkpoints and logs")
    p.add_argument("--results", required=True, help="folder for the JSON files")
    p.add_argument("--probes", default="runs/probes")
    p.add_argument("--architectures", nargs="+", default=KINDS, choices=KINDS)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--images", "--pictures", dest="images", type=int, default=1000, help="generated for each distance")
    p.add_argument("--steps", type=int, default=20, help="sampling steps, by the solver of the config")
    p.add_argument("--validation", type=int, default=1000, help="test images for the loss by noise level")
    p.add_argument("--rules", nargs="+", default=RULES["diffmoe"], choices=RULES["diffmoe"],
                   help="routing rules with which DiffMoE is evaluated")
    p.add_argument("--gammas", action="store_true", help="DiffMoE: also with one fixed threshold for all experts")
    p.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    a = p.parse_args(argv)
    judge = None
    os.makedirs(a.results, exist_ok=True)
    for seed in a.seeds:
        for architecture in a.architectures:
            c = configs.load(a.config, a.set)
            path = os.path.join(a.results, f"{c.name}-{architecture}-{seed}.json")
            if os.path.exists(path):
                continue
            judge = judge or Judge(c, a)
            out = one_run(c, a, judge, architecture, seed)
            with open(path + ".tmp", "w", encoding="utf-8") as f:
                json.dump(out, f, indent=1)
                f.write("\n")
            os.replace(path + ".tmp", path)
            print(path, {r: round(q["frechet"], 3) for r, q in out["pictures"].items()}, flush=True)


if __name__ == "__main__":
    main()
