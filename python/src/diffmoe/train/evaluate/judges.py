"""Compares emoji weights files with each other and with the scores of *real* images.

All files draw the same pairs from the same noise.  The column ``real`` has the true images of those pairs.  No judge and
no model has seen the held-out ones, so their scores are what a perfect model would reach.

- subject, style by the **nearest** training image (32x32 pixels, root mean square); the style counts as correct only
  if that very drawing is nearest, so few real unseen images pass;
- style by a **classifier** on low-level features of a public network, trained without the subject that it judges;
- subject by the nearest training image in **public features**;
- distance to the true image at 16x16 pixels;
- the patch grid and the gradient of images;
- kernel and Fréchet distance, precision and recall on public features against training images of other pairs;
- copies: images closer than ``COPY`` levels to a training image;
- the error of the predicted image by noise level (``heldout``)."""

import argparse
import json
import os

import torch

from ...routing import RULES
from ...schedulers import suitable
from .. import heldout
from ..exported import load_exported
from . import borders, distribution, emoji, generate, public, stats
from .markdown import table as markdown

COPY = 10  # 8-bit levels, root mean square at 32x32; two drawings of a subject are 53 to 68 apart, near-duplicates 11
PERIODS = (8, 4)


def arguments(p):
    p.add_argument("--weights", nargs="+", required=True)
    p.add_argument("--titles", nargs="+", help="one per file; default: the names in the files")
    p.add_argument("--out", required=True, help="JSON file to write")
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--cache", help="folder in which images and features are cached")
    p.add_argument("--seen-pairs", type=int, default=200, help="drawn at random")
    p.add_argument("--held-out-pairs", type=int, default=0, help="only this many (0: all)")
    p.add_argument("--error-images", type=int, default=500,
                   help="images of each set for the error by noise level; 0: not measured")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, help="default: each file's")
    p.add_argument("--guidance", type=float, help="default: each file's")
    p.add_argument("--solver", choices=[kind.name for kind in suitable("flow")], help="default: each file's")
    p.add_argument("--interval", nargs=2, type=float, metavar=("FROM", "TO"), help="guide only at these times")
    p.add_argument("--shifts", type=int, default=1, help="average over this many shifts of the image along a patch's diagonal")
    p.add_argument("--shifts-from", type=float, default=0.7, help="shift from this time on")
    p.add_argument("--rule", choices=RULES, default="token")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--threads", type=int, default=1)


class Judges:
    """Judges trained on, or searching in, real images.  ``own``: (training, held-out) datasets."""

    def __init__(self, own, seed, cache=None, net=None):
        self.seed = seed
        x = [d.images.float() / 127.5 - 1 for d in own]
        self.train, self.columns = x[0], own[0].columns
        self.gallery = emoji.as_judged(self.train)
        self.features = [public.features(v, cache, net=net) for v in x]
        self.cache, self.net = cache, net
        both = [torch.cat([d.columns[i] for d in own]) for i in range(2)]
        share, low = emoji.share_of(own[0].labels[0].values), torch.cat([f["low"] for f in self.features])
        self.share = share
        self.styles = [public.ridge_classifier(low[(r := share[both[0]] != k)], both[1][r], len(own[0].labels[1].values))
                       for k in range(emoji.STYLE_FOLDS)]

    def style(self, low, subjects):
        """Style of each image, by the classifier trained without its subject."""
        out, share = torch.zeros_like(subjects), self.share[subjects]
        for k, classify in enumerate(self.styles):
            if (of := share == k).any():
                out[of] = classify(low[of])
        return out

    def of_pairs(self, x, truth, asked, without=None):
        """Per image: the verdict of each judge.  ``without``: one row of the training set per image that does not count as a
        neighbour (a real training image must not find itself)."""
        f = public.features(x, self.cache, net=self.net)
        distance = torch.cdist(emoji.as_judged(x).flatten(1), self.gallery.flatten(1))
        deep = torch.cdist(f["deep"], self.features[0]["deep"])
        if without is not None:
            for d in (distance, deep):
                d[torch.arange(len(d)), without] = float("inf")
        near, like = distance.argmin(1), deep.argmin(1)
        levels = distance.min(1).values * 127.5 / self.gallery[0].numel() ** 0.5
        small = [torch.nn.functional.avg_pool2d(v, v.shape[-1] // 16) if v.shape[-1] > 16 else v for v in (x, truth)]
        return {"subject, nearest": self.columns[0][near] == asked[0],
                "style, nearest": self.columns[1][near] == asked[1],
                "subject, public features": self.columns[0][like] == asked[0],
                "style, classifier": self.style(f["low"], asked[0]) == asked[1],
                "copies": levels < COPY,
                "RMS to the true image, 16x16": (small[0] - small[1]).square().flatten(1).mean(1).sqrt() * 127.5}, f

    def of_set(self, x, features, others):
        """Statistics of a set of images; others: rows of the training set to compare with."""
        deep = self.features[0]["deep"]
        return of_set(x, features["deep"], deep[others], deep, self.seed)


def of_set(x, made, real, scale, seed):
    """Borders and distances of images x with features ``made``, against features ``real``; scale: features of real
    images, the same for everything that is to be compared."""
    real, made = (distribution.standardised(f, scale) for f in (real, made))
    out = {f"grid, {p} pixels": borders.grid(x, p, seed) for p in PERIODS if p < x.shape[-1]}
    out["gradient"] = borders.gradient(x, seed)
    out["KID x 1000"] = scaled(distribution.kid_with_interval(made, real, seed), 1000)
    out["Fréchet, 128 components"] = distribution.frechet_with_interval(made, real, seed)
    return {**out, **distribution.precision_recall(made, real, seed)}


def scaled(s, by):
    return {"value": by * s["value"], "interval": [by * v for v in s["interval"]]}


def rows_of(dataset, asked):
    """Row of the dataset with each requested pair."""
    place = {pair: i for i, pair in enumerate(zip(*(c.tolist() for c in dataset.columns)))}
    return torch.tensor([place[pair] for pair in zip(*(c.tolist() for c in asked))])


def compare(first, second, seed, rounds=2000):
    """Mean difference second - first of a judge's verdicts on the same pairs, with a paired interval."""
    return stats.mean(second.double() - first.double(), seed, rounds)


def errors(model, own, count, cache=None, key=""):
    """Error of the predicted image on held-out and seen images, with that of the input divided by t; cached under a key
    if there is a cache."""
    path = cache and os.path.join(cache, f"error-{key[:24]}-{count}.json")
    if path and os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    h = heldout.HeldOut({"held_out": own[1], "seen": own[0]}, count)
    out = {"times": list(heldout.TIMES), "pictures": h.sizes(),
           "input": [((1 - t) / t) ** 2 for t in heldout.TIMES], **h.measure(model)}
    if path:
        os.makedirs(cache, exist_ok=True)
        write(path, out)
    return out


def write(path, out):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        json.dump(out, f, indent=1, ensure_ascii=False)
        f.write("\n")
    os.replace(path + ".tmp", path)


def question(own, a):
    seen = emoji.pairs_of(own[0], 1, a.seen_pairs, a.seed)
    held = emoji.pairs_of(own[1], 1, a.held_out_pairs, a.seed)
    return {"seen": seen, "held_out": held}


def run(a, net=None):
    files = [(path, *load_exported(path)) for path in a.weights]
    vocabulary = {tuple(map(tuple, emoji.vocabulary(meta))) for _, _, meta in files}
    sizes = {meta["params"]["input_size"] for _, _, meta in files}
    if len(vocabulary) > 1 or len(sizes) > 1:
        raise SystemExit("the files have different subjects, styles or sizes; only files of one kind can be compared")
    own, _ = emoji.load(files[0][2], a.data_root)
    judges, asked = Judges(own, a.seed, a.cache, net), question(own, a)
    rows = {part: rows_of(d, asked[part]) for part, d in zip(("seen", "held_out"), own)}
    truth = {part: d.images[rows[part]].float() / 127.5 - 1 for part, d in zip(("seen", "held_out"), own)}
    others = torch.ones(len(own[0]), dtype=torch.bool)
    others[rows["seen"]] = False
    titles = a.titles or [meta["name"] for _, _, meta in files]
    out = {"kind": "emoji_judges", "pairs": {k: len(v[0]) for k, v in asked.items()}, "seed": a.seed,
           "training_pictures": len(own[0]), "columns": []}
    said = []
    for title, images, more in sources(a, files, titles, asked, truth, own):
        column, answers, features = {"title": title, **more}, {}, []
        for part in asked:
            # A real seen image must not find itself; a generated one may.
            without = rows[part] if title == "real" and part == "seen" else None
            answers[part], f = judges.of_pairs(images[part], truth[part], asked[part], without)
            column[part] = {k: stats.mean(v, a.seed) for k, v in answers[part].items()}
            features.append(f)
        both = {k: torch.cat([f[k] for f in features]) for k in features[0]}
        column["set"] = judges.of_set(torch.cat(list(images.values())), both, others)
        said.append(answers)
        if len(said) > 2:  # against the first file
            column["against_first"] = {part: {k: compare(said[1][part][k], v, a.seed) for k, v in answers[part].items()}
                                       for part in asked}
        out["columns"].append(column)
        write(a.out, out)  # keep partial results if interrupted
    return out


def sources(a, files, titles, asked, truth, own):
    """(title, {part: images}, extra entries) of the real images, then of every file."""
    yield "real", truth, {}
    for (path, model, meta), title in zip(files, titles, strict=True):
        s = generate.settings(meta, a)
        who = generate.identity(path, meta)
        images, compute, seconds = {}, [], 0.0
        for part, columns in asked.items():
            images[part], c, used = generate.kept(a.cache, f"judges-{part}", who["sha256"], model, columns, s)
            compute.append(c)
            seconds += used
        more = {"weights": who, "settings": s, "C": float(torch.cat(compute).mean()),
                "cpu_seconds_a_picture": round(seconds / sum(len(c) for c in compute), 3)}
        if a.error_images:
            model.set_rule(s["rule"])
            more["error"] = errors(model, own, a.error_images, a.cache, f"{s['rule']}-{who['sha256']}")
        yield title, images, more


def number(s, percent=False):
    v, (lo, hi) = s["value"], s["interval"]
    if percent:
        return f"{100 * v:.1f} % ({100 * lo:.1f}–{100 * hi:.1f})"
    digits = 3 if abs(v) < 10 else 1
    return f"{v:.{digits}f} ({lo:.{digits}f}–{hi:.{digits}f})"


SHARES = ("subject", "style", "copies", "precision", "recall")


def rows_for(columns, part):
    keys = list(columns[0][part])
    return [[k, *(number(c[part][k], k.startswith(SHARES)) for c in columns)] for k in keys]


def table(runs):
    """Markdown tables of the last result."""
    r = runs[-1]
    columns = r["columns"]
    titles = [c["title"] for c in columns]
    parts = {"held_out": f"{r['pairs']['held_out']} held-out pairs", "seen": f"{r['pairs']['seen']} training pairs",
             "set": "all images as a set"}
    out = [markdown([name, *titles], rows_for(columns, part)) for part, name in parts.items()]
    measured = [c for c in columns if "error" in c]
    if measured:
        e = measured[0]["error"]
        head = ["error of the predicted image", *(f"t = {t:g}" for t in e["times"])]
        line = lambda v: [f"{x:.4f}" for x in v]
        rows = [["input divided by t (baseline)", *line(e["input"])]]
        rows += [[f"{c['title']}, {name}", *line(c["error"][part])]
                 for part, name in (("held_out", "held-out"), ("seen", "seen")) for c in measured]
        out.append(markdown(head, rows))
    return "\n\n".join(out)


def main(a: argparse.Namespace):
    torch.set_num_threads(a.threads)
    print(table([run(a)]))
