"""Does a picture show the subject and the style that were asked for?

Judged by two witnesses: a probe trained on real pictures, and the nearest real
picture in pixel space.  Seen pairs were trained on; held-out pairs were not, so
they ask for a subject in a style in which the model never saw it."""

import os

import torch

from .. import data
from ..export import load_exported
from . import generate, probe, retrieval, stats

PROBE_STEPS = 500  # batches of 64
FOLDS = 4


def load(meta, root, path="emoji/emoji64.npz", labels="emoji/labels.json"):
    """(training pictures, held-out pictures) of the file's subjects, at its size."""
    subjects, size = meta["labels"][0]["values"], meta["params"]["input_size"]
    parts = [data.load_emoji(os.path.join(root, path), os.path.join(root, labels), size, subjects, 1, held_out=h)
             for h in (False, True)]
    for d in parts:
        if d.labels[0].values != subjects:
            raise ValueError("the data set does not have every subject of the file")
    return parts


def real(parts):
    """Both sets as one: (pictures [N, 3, s, s], columns, held-out flags)."""
    x = torch.cat([d.images for d in parts]).float() / 127.5 - 1
    columns = [torch.cat([d.columns[i] for d in parts]) for i in range(2)]
    held = torch.cat([torch.full((len(d),), k == 1) for k, d in enumerate(parts)])
    return x, columns, held


def agreement(found, asked, groups=None):
    """Shares of right subjects, right styles, and both right."""
    s, t = (f == a for f, a in zip(found, asked))
    return {"subject": stats.share(s, groups), "style": stats.share(t, groups), "both": stats.share(s & t, groups)}


def make_probe(x, columns, heads, steps=PROBE_STEPS, folds=FOLDS, seed=0):
    """The judge (trained on every real picture), and how good its kind is on pictures it never saw."""
    clean, moved = probe.cross_validate(x, columns, heads, "jitter", steps, folds, seed)
    judge, seconds = probe.train(x, columns, heads, "jitter", steps, seed=seed)
    fresh = probe.jitter(x, torch.Generator().manual_seed(seed + 99))
    report = {"pictures": len(x), "steps": steps, "folds": folds, "seed": seed, "cpu_seconds": round(seconds, 1),
              "unseen": agreement(clean, columns), "unseen_augmented": agreement(moved, columns),
              "own_augmented": agreement(probe.predict(judge, fresh), columns)}
    return judge, report


def judge(judge_probe, x, asked, gallery, gallery_columns, gallery_held):
    pairs = asked[0] * 1000 + asked[1]
    index, distance = retrieval.nearest(x, gallery)
    near = [c[index] for c in gallery_columns]
    own = (near[0] == asked[0]) & (near[1] == asked[1])
    return {"probe": agreement(probe.predict(judge_probe, x), asked, pairs),
            "nearest": agreement(near, asked, pairs),
            "nearest_is_held_out": stats.share(gallery_held[index] & own, pairs),
            "distance": {"median": float(distance.median()), "mean": float(distance.mean())}}


def pairs_of(dataset, each):
    pairs = torch.stack(dataset.columns, 1).unique(dim=0).repeat_interleave(each, 0)
    return [pairs[:, 0], pairs[:, 1]]


def by_value(values, column, numbers):
    return {v: round(float(numbers[column == i].mean()), 4) for i, v in enumerate(values) if (column == i).any()}


def run(a):
    model, meta = load_exported(a.weights)
    parts = load(meta, a.data_root)
    x, columns, held = real(parts)
    heads = [len(l["values"]) for l in meta["labels"]]
    if a.probe and os.path.exists(a.probe):
        witness, report = probe.load(a.probe)
    else:
        witness, report = make_probe(x, columns, heads, seed=a.seed)
        if a.probe:
            probe.save(witness, report, a.probe)
    s = generate.settings(meta, a)
    out = {"kind": "emoji", "weights": generate.identity(a.weights, meta), "settings": s, "probe": report,
           "chance": {"subject": 1 / heads[0], "style": 1 / heads[1], "both": 1 / (heads[0] * heads[1])},
           "spacing": retrieval.spacing(x)}
    for name, dataset, each in (("seen", parts[0], a.per_pair), ("held_out", parts[1], a.per_held_out)):
        asked = pairs_of(dataset, each)
        made, compute, seconds = generate.generate(model, asked, s)
        out[name] = {"pairs": len(dataset), "per_pair": each, "cpu_seconds": round(seconds, 1),
                     **judge(witness, made, asked, x, columns, held)}
        right = [(p == q).float() for p, q in zip(probe.predict(witness, made), asked)]
        styles, subjects = meta["labels"][1]["values"], meta["labels"][0]["values"]
        out[name]["by_style"] = {"subject_right": by_value(styles, asked[1], right[0]),
                                 "style_right": by_value(styles, asked[1], right[1]),
                                 "C": by_value(styles, asked[1], compute)}
        out[name]["C"] = {"mean": float(compute.mean()), "subject": by_value(subjects, asked[0], compute)}
        out[name]["noise"] = generate.loss_by_noise(model, dataset, len(dataset), a.seed)
    return out
