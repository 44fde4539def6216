"""Do generated images show the requested subject and style?

There are two kinds of judge: probes trained on real images, and the nearest real
image in pixel space.  Seen pairs were in the training data.  Held-out pairs were
not: they request a subject in a style in which the model never saw it.

Style is judged by several probes.  Each is trained without one share of all
subjects and judges only those, so it has to recognise the style and cannot have
seen the image.  They are the same for every file.  The subject probe is trained
on every real image of the file's subjects; its accuracy on unseen images is
measured by cross-validation.

Images larger than 32x32 are box-averaged to that size, so that files of all sizes
have the same judges.

Text-conditioned models get prompts from training templates and, separately, from
templates that were never trained on (``prompts.UNSEEN``).  Negative prompts are measured on prompts that name only a
subject: does another style appear when the one that was drawn is the negative prompt?"""

import json
import os
import zlib

import torch

from .. import data, prompts
from ..exported import described_reader, load_exported
from ..sample import to_png
from . import generate, probe, retrieval, stats

JUDGED = 32  # pixels
SUBJECT_PASSES, FOLDS = 24, 2
STYLE_STEPS, STYLE_FOLDS = 4000, 3  # steps of 64 images


def vocabulary(meta):
    """(subjects, styles) of the file."""
    if "text" in meta:
        # `convert` sorts the keys of the header.
        return meta["text"]["subjects"], [style for style in prompts.STYLE_PHRASES if style in meta["text"]["styles"]]
    return tuple(l["values"] for l in meta["labels"])


def load(meta, root, path="emoji/emoji64.npz", labels="emoji/labels.json"):
    """(training images, held-out images) of the file's subjects at its size, and the same for all subjects at the judged
    size."""
    subjects, size = vocabulary(meta)[0], meta["params"]["input_size"]
    files = os.path.join(root, path), os.path.join(root, labels)
    with open(files[1], encoding="utf-8") as f:
        every = sorted({r["name"] for r in json.load(f)})
    get = lambda names, held, size: data.load_emoji(*files, size, names, 1, held_out=held)
    own = [get(subjects, held, size) for held in (False, True)]
    if own[0].labels[0].values != subjects:
        raise ValueError("the data set does not have every subject of the file")
    return own, [get(every, held, min(size, JUDGED)) for held in (False, True)]


def as_judged(x):
    """Images [N, 3, s, s] in [-1, 1] at the judged size, in whole 8-bit levels."""
    levels = ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return data.shrink(levels, min(x.shape[-1], JUDGED)).float() / 127.5 - 1


def real(parts):
    """Both sets as one: (images [N, 3, s, s] at the judged size, columns, held-out flags)."""
    x = as_judged(torch.cat([d.images for d in parts]).float() / 127.5 - 1)
    columns = [torch.cat([d.columns[i] for d in parts]) for i in range(2)]
    held = torch.cat([torch.full((len(d),), k == 1) for k, d in enumerate(parts)])
    return x, columns, held


def agreement(found, asked, groups=None):
    """Shares of right subjects, right styles, and both right."""
    s, t = (f == a for f, a in zip(found, asked))
    return {"subject": stats.share(s, groups), "style": stats.share(t, groups), "both": stats.share(s & t, groups)}


def share_of(subjects):
    """Index of the share that each subject belongs to, the same in every file."""
    return torch.tensor([zlib.crc32(s.encode()) % STYLE_FOLDS for s in subjects])


class Witness:
    """Combines the probes: a subject and a style for every image.  The style comes
    from the probe that was trained without the requested subject."""

    def __init__(self, subject, styles, subjects):
        self.subject, self.styles, self.share = subject, styles, share_of(subjects)

    def name(self, x, asked):
        return [probe.predict(self.subject, x)[0], name_style(self.styles, x, self.share[asked[0]])]


def name_style(probes, x, share):
    """x [N, 3, s, s], share [N]: which of the probes judges each image."""
    out = torch.zeros_like(share)
    for k, judge in enumerate(probes):
        if (of := share == k).any():
            out[of] = probe.predict(judge, x[of])[0]
    return out


def make_subject_probe(x, columns, n, seed=0):
    """The probe (trained on every image), and its cross-validated accuracy on unseen images."""
    subject = [columns[0]]
    steps = max(1, round(SUBJECT_PASSES * len(x) / 64))
    clean, moved = probe.cross_validate(x, subject, [n], "jitter", steps, FOLDS, seed)
    judge, seconds = probe.train(x, subject, [n], "jitter", steps, seed=seed)
    fresh = probe.jitter(x, torch.Generator().manual_seed(seed + 99))
    right = lambda found: stats.share(found == columns[0])
    return judge, {"pictures": len(x), "steps": steps, "folds": FOLDS, "seed": seed,
                   "cpu_seconds": round(seconds, 1), "unseen": right(clean[0]), "unseen_augmented": right(moved[0]),
                   "own_augmented": right(probe.predict(judge, fresh)[0])}


def make_style_probe(every, k, n, seed=0):
    """Trained on all subjects except the k-th share."""
    x, columns, _ = real(every)
    rest = share_of(every[0].labels[0].values)[columns[0]] != k
    judge, seconds = probe.train(x[rest], [columns[1][rest]], [n], "shift", STYLE_STEPS, lr=2e-3, kind="residual",
                                 amp=True, seed=seed + k)
    return judge, {"pictures": int(rest.sum()), "steps": STYLE_STEPS, "cpu_seconds": round(seconds, 1)}


def style_report(judges, reports, x, columns, held, subjects, n, seed):
    """Accuracy on the real images of the file's subjects, each judged by the probe that never saw the subject."""
    share = share_of(subjects)[columns[0]]
    found = name_style(judges, x, share)
    fresh = probe.shift(x, torch.Generator().manual_seed(seed + 99))
    right = found == columns[1]
    return {"pictures": [r["pictures"] for r in reports], "steps": STYLE_STEPS, "folds": STYLE_FOLDS, "seed": seed,
            "cpu_seconds": sum(r["cpu_seconds"] for r in reports), "unseen": stats.share(right),
            "unseen_held_out": stats.share(right[held]),
            "unseen_augmented": stats.share(name_style(judges, fresh, share) == columns[1]),
            "unseen_by_style": [stats.share(right[columns[1] == i]) for i in range(n)]}


def witness(a, every, x, columns, held, subjects, styles):
    """The probes and their reports, cached in --probes."""
    n = len(subjects), len(styles)
    subject, r = probe.kept(a.probes, f"emoji-subject-{n[0]}.pt", lambda: make_subject_probe(x, columns, n[0], a.seed))
    judges, reports = zip(*(probe.kept(a.probes, f"emoji-style-{k}.pt", lambda: make_style_probe(every, k, n[1], a.seed))
                            for k in range(STYLE_FOLDS)))
    t = style_report(judges, reports, x, columns, held, subjects, n[1], a.seed)
    return Witness(subject, judges, subjects), {"subject": r, "style": t}


def judge(witness, x, asked, gallery, gallery_columns, gallery_held):
    pairs = asked[0] * 1000 + asked[1]
    index, distance = retrieval.nearest(x, gallery)
    near = [c[index] for c in gallery_columns]
    own = (near[0] == asked[0]) & (near[1] == asked[1])
    return {"probe": agreement(witness.name(x, asked), asked, pairs),
            "nearest": agreement(near, asked, pairs),
            "nearest_is_held_out": stats.share(gallery_held[index] & own, pairs),
            "distance": {"median": float(distance.median()), "mean": float(distance.mean())}}


def pairs_of(dataset, each, at_most=0, seed=0):
    """Label columns with every pair of the dataset ``each`` times (or at_most random pairs)."""
    pairs = torch.stack(dataset.columns, 1).unique(dim=0)
    if at_most and at_most < len(pairs):
        pick = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:at_most]
        pairs = pairs[pick.sort().values]
    pairs = pairs.repeat_interleave(each, 0)
    return [pairs[:, 0], pairs[:, 1]]


def held_out_sheet(path, dataset, made, each):
    """For each held-out pair the real image, then the generated ones; six pairs per row."""
    order = {tuple(p): i for i, p in enumerate(torch.stack(dataset.columns, 1).tolist())}
    truth = dataset.images.float() / 127.5 - 1
    rows = []
    for i, pair in enumerate(sorted(order)):
        rows += [truth[order[pair]][None], made[i * each : (i + 1) * each]]
    to_png(torch.cat(rows), path, min(6, len(order)) * (each + 1), scale=max(1, 64 // made.shape[-1]))


def by_value(values, column, numbers):
    return {v: round(float(numbers[column == i].mean()), 4) for i, v in enumerate(values) if (column == i).any()}


def sentences(asked, subjects, styles, forms):
    """A prompt for each requested pair, cycling through the templates and the phrases of the style."""
    out = []
    for i, (s, t) in enumerate(zip(*(c.tolist() for c in asked))):
        phrases = prompts.STYLE_PHRASES[styles[t]]
        out.append(prompts.fill(forms[i % len(forms)], subjects[s], phrases[(i // len(forms)) % len(phrases)]))
    return out


def questions(meta, own, a):
    """[(name, dataset, requested pairs, images per pair, the conditions for the model)]"""
    seen, held_out = (pairs_of(own[0], a.per_pair, a.seen_pairs, a.seed), pairs_of(own[1], a.per_held_out))
    parts = [("seen", own[0], seen, a.per_pair), ("held_out", own[1], held_out, a.per_held_out)]
    reader = described_reader(meta)
    if not reader:
        return [(*p, p[2]) for p in parts]
    subjects, styles = vocabulary(meta)
    for d in own:
        d.prompter = prompts.Prompter(subjects, styles, reader)
    say = lambda asked, forms: [reader.encode(sentences(asked, subjects, styles, forms))]
    known = [(*p, say(p[2], prompts.SENTENCES)) for p in parts]
    return known + [(f"{name}_reworded", d, asked, each, say(asked, prompts.UNSEEN)) for name, d, asked, each in parts]


def negative_prompts(model, meta, judges, a, s, sha256, count=200):
    """Prompts that name only a subject, drawn three times from the same noise: without a negative prompt, with the style
    that this gave (by the probes) as the negative prompt, and with another style, drawn at random."""
    subjects, styles = vocabulary(meta)
    g, reader = torch.Generator().manual_seed(a.seed), described_reader(meta)
    asked = torch.randperm(len(subjects), generator=g)[:count]
    named = [prompts.fill(prompts.SUBJECT_ONLY[i % 2], subjects[s], "") for i, s in enumerate(asked)]
    avoid = lambda found: [reader.encode([prompts.STYLE_ONLY[0].format(t=prompts.STYLE_PHRASES[styles[t]][0])
                                          for t in found.tolist()])]

    def drawn(name, negative=None):
        x = generate.kept(a.images, f"negative-{name}", sha256, model, [reader.encode(named)], s, negative)[0]
        return judges.name(as_judged(x), [asked])

    subject, first = drawn("none")
    other = (first + torch.randint(1, len(styles), (len(asked),), generator=g)) % len(styles)
    out = {"prompts": len(asked), "none": {"subject": stats.share(subject == asked)}}
    for name, avoided in (("own", first), ("other", other)):
        found = drawn(name, avoid(avoided))
        out[name] = {"subject": stats.share(found[0] == asked), "same_style": stats.share(found[1] == first),
                     "avoided": stats.share(found[1] == avoided)}
    return out


def run(a):
    model, meta = load_exported(a.weights)
    own, every = load(meta, a.data_root)
    x, columns, held = real(own)
    subjects, styles = vocabulary(meta)
    heads = len(subjects), len(styles)
    judges, report = witness(a, every, x, columns, held, subjects, styles)
    s = generate.settings(meta, a)
    model.set_rule(s["rule"])
    out = {"kind": "emoji_text" if "text" in meta else "emoji",
           "weights": generate.identity(a.weights, meta), "settings": s, "probe": report,
           "chance": {"subject": 1 / heads[0], "style": 1 / heads[1], "both": 1 / (heads[0] * heads[1])},
           "spacing": retrieval.spacing(x)}
    for name, dataset, asked, each, conditions in questions(meta, own, a):
        made, compute, seconds = generate.kept(a.images, name, out["weights"]["sha256"], model, conditions, s)
        if name == "held_out" and a.sheet:
            held_out_sheet(a.sheet, dataset, made, each)
        made = as_judged(made)
        right = [(p == q).float() for p, q in zip(judges.name(made, asked), asked)]
        out[name] = {"pairs": len(asked[0]) // each, "per_pair": each, "cpu_seconds": round(seconds, 1),
                     **judge(judges, made, asked, x, columns, held),
                     "by_style": {"subject_right": by_value(styles, asked[1], right[0]),
                                  "style_right": by_value(styles, asked[1], right[1]),
                                  "C": by_value(styles, asked[1], compute)},
                     "C": {"mean": float(compute.mean()), "subject": by_value(subjects, asked[0], compute)}}
        if not name.endswith("reworded"):
            out[name]["noise"] = generate.loss_by_noise(model, dataset, min(len(dataset), 500), a.seed)
    if "text" in meta:
        out["negative"] = negative_prompts(model, meta, judges, a, s, out["weights"]["sha256"])
    return out
