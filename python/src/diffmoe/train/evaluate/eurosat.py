"""Do generated tiles look like their class to a classifier trained on real ones?

Also the Fréchet distance on that classifier's features.  It is not FID: features,
resolution and sample counts differ, and it is comparable only with values computed
by this code."""

import dataclasses
import os

import torch

from .. import data
from ..exported import load_exported
from . import borders, generate, judges, probe, public, stats

PROBE_STEPS = 2000  # batches of 64
PATH = "eurosat/eurosat.npz"


def load(root, size, path=PATH):
    """[(images float [N, 3, s, s], classes [N])] of the two splits, and the two datasets."""
    parts = [data.load_jpeg(os.path.join(root, path), size, s) for s in ("train", "test")]
    return [(d.images.float() / 127.5 - 1, d.columns[0]) for d in parts], parts


def make_probe(train, test, classes, seed=0, augment="dihedral"):
    judge, seconds = probe.train(train[0], [train[1]], [classes], augment, PROBE_STEPS, seed=seed)
    found = probe.predict(judge, test[0])[0]
    return judge, {"pictures": len(train[0]), "steps": PROBE_STEPS, "seed": seed, "cpu_seconds": round(seconds, 1),
                   "unseen": stats.share(found == test[1]),
                   "unseen_by_class": [stats.share(found[test[1] == c] == c) for c in range(classes)]}


def distances(judge, made, train, test, seed):
    """Fréchet distance on probe features to the training tiles, for the generated tiles
    and, for scale, for the same number of real test tiles."""
    base = stats.moments(probe.features(judge, train[0]))
    pick = torch.randperm(len(test[0]), generator=torch.Generator().manual_seed(seed))[: len(made)]
    return {"features": judge.heads[0].in_features, "n": len(made), "n_real": len(pick),
            "generated": stats.frechet(stats.moments(probe.features(judge, made)), base),
            "real": stats.frechet(stats.moments(probe.features(judge, test[0][pick])), base)}


def difficulty(model, tiles, classes, n, seed):
    """Conditional loss of each class: the mean over noise levels on up to n of its tiles."""
    out = []
    for c in range(classes):
        of = tiles.columns[0] == c
        mine = dataclasses.replace(tiles, images=tiles.images[of], columns=[tiles.columns[0][of]], augment="none")
        loss = generate.loss_by_noise(model, mine, n, seed)["loss"].values()
        out.append(sum(loss) / len(loss))
    return out


def as_sets(made, train, test, a, net=None):
    """Borders and distances on public features (``judges``), compared with the test tiles: for the generated tiles and
    for the same number of real training tiles."""
    pick = torch.randperm(len(train), generator=torch.Generator().manual_seed(a.seed))[: len(made)]
    get = lambda x: public.features(x, a.images, net=net)["deep"]
    base = get(test)
    return {name: judges.of_set(x, get(x), base, base, a.seed) for name, x in (("real", train[pick]), ("generated", made))}


def run(a):
    model, meta = load_exported(a.weights)
    (train, test), parts = load(a.data_root, meta["params"]["input_size"])
    names = meta["labels"][0]["values"]
    witness, report = probe.kept(a.probes, "eurosat.pt", lambda: make_probe(train, test, len(names), a.seed))
    s = generate.settings(meta, a)
    model.set_rule(s["rule"])
    asked = torch.arange(len(names)).repeat(a.per_class)
    who = generate.identity(a.weights, meta)
    made, compute, seconds = generate.kept(a.images, "eurosat", who["sha256"], model, [asked], s)
    found = probe.predict(witness, made)[0]
    hard = difficulty(model, parts[1], len(names), max(1, a.loss_tiles // 5), a.seed)
    classes = {}
    for c, name in enumerate(names):
        of = asked == c
        classes[name] = {**stats.share(found[of] == c), "C": float(compute[of].mean()), "loss": hard[c],
                         "gradient": borders.gradient(made[of], a.seed),
                         "gradient_real": borders.gradient(test[0][test[1] == c], a.seed),
                         "taken_for": {names[i]: int(k) for i, k in enumerate(found[of].bincount(minlength=len(names)))
                                       if k and i != c}}
    return {"kind": "eurosat", "weights": who, "settings": s, "probe": report,
            "chance": 1 / len(names), "per_class": a.per_class, "cpu_seconds": round(seconds, 1),
            "class": stats.share(found == asked), "classes": classes,
            "frechet_on_probe_features": distances(witness, made, train, test, a.seed),
            **({"sets": as_sets(made, train[0], test[0], a)} if a.public else {}),
            "C": float(compute.mean()),
            "loss_and_C": stats.spearman(hard, [classes[n]["C"] for n in names]),
            "noise": {k: generate.loss_by_noise(model, d, a.loss_tiles, a.seed) for k, d in zip(("train", "test"), parts)}}
