"""Finds label pairs that a model generates well, for its default images:

    python -m diffmoe.train.evaluate showcase --weights assets/emoji.safetensors --data-root DATA

Candidates are training pairs, ``--per-subject`` random styles of each subject, each from ``--seeds`` noises.  A pair is kept
if every image of it has the pair's own drawing as its nearest training image, at a root mean square of at most ``--levels``
of 255 (32x32 pixels).  The best ``--most`` pairs, one for each subject, are written into the file as
``defaults.showcase``: ``{"judge": the rule in words, "rows": [[row of each label table], ...]}``, best first.
Without ``--write`` the file is left alone and the result printed.  ``--again`` judges the pairs that the file has already."""

import json
import os

import torch
from safetensors import safe_open
from safetensors.torch import save

from ...writing import store
from ..exported import load_exported
from . import emoji, generate, judges, retrieval


def arguments(p):
    p.add_argument("--weights", required=True)
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--cache", help="folder in which images are cached")
    p.add_argument("--again", action="store_true", help="candidates are the pairs of the file")
    p.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    p.add_argument("--per-subject", type=int, default=2, help="candidate styles of a subject")
    p.add_argument("--seeds", type=int, default=2, help="images of a pair")
    p.add_argument("--levels", type=float, default=28.0, help="largest distance to the drawing, of 255")
    p.add_argument("--most", type=int, default=400, help="pairs to keep")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--write", action="store_true", help="write the result into the file")
    p.set_defaults(steps=None, guidance=None, solver=None, rule="token")


def candidates(dataset, per_subject, seed):
    """Rows of the dataset: at most ``per_subject`` random images of each subject."""
    g = torch.Generator().manual_seed(seed)
    taken, rows = {}, []
    for i in torch.randperm(len(dataset), generator=g).tolist():
        subject = dataset.columns[0][i].item()
        if taken.get(subject, 0) < per_subject:
            taken[subject] = taken.get(subject, 0) + 1
            rows.append(i)
    return torch.tensor(sorted(rows))


def earlier(dataset, meta):
    """Rows of the dataset: the pairs that a file has already."""
    columns = zip(*meta["defaults"]["showcase"]["rows"])
    return judges.rows_of(dataset, [torch.tensor(c) for c in columns]).sort().values


def choose(levels, own, columns, most, limit):
    """levels, own [seeds, N]: distance to the nearest image and whether it is the pair's own.  The best pair of each subject,
    best first: indices into N."""
    worst, good = levels.max(0).values, own.all(0) & (levels.max(0).values <= limit)
    out, seen = [], set()
    for i in worst.argsort().tolist():
        subject = columns[0][i].item()
        if good[i] and subject not in seen:
            seen.add(subject)
            out.append(i)
    return out[:most]


def rewritten(path, showcase):
    """Write the file again with its showcase."""
    with safe_open(path, "pt") as f:
        metadata = dict(f.metadata())
        tensors = {k: f.get_tensor(k) for k in f.keys()}
    description = json.loads(metadata["diffmoe"])
    description["defaults"]["showcase"] = showcase
    metadata["diffmoe"] = json.dumps(description, ensure_ascii=False, separators=(",", ":"))
    store(path, save(tensors, metadata))


def run(a):
    torch.set_num_threads(a.threads)
    model, meta = load_exported(a.weights)
    own = emoji.load(meta, a.data_root)[0][0]
    rows = earlier(own, meta) if a.again else candidates(own, a.per_subject, a.seed)
    columns = [c[rows] for c in own.columns]
    gallery = emoji.as_judged(own.images.float() / 127.5 - 1)
    levels, is_own, sha = [], [], generate.identity(a.weights, meta)["sha256"]
    for seed in range(a.seeds):
        s = generate.settings(meta, a) | {"seed": a.seed + seed}
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
            x = generate.kept(a.cache, f"showcase-{seed}{'-bf16' * a.bf16}", sha, model, columns, s)[0].float()
        nearest, distance = retrieval.nearest(emoji.as_judged(x), gallery)
        levels.append(distance)
        is_own.append(nearest == rows)
    levels, is_own = torch.stack(levels), torch.stack(is_own)
    kept = choose(levels, is_own, columns, a.most, a.levels)
    judge = (f"the nearest training image is the pair's own drawing at an RMS of at most {a.levels:g} of 255 (32x32 pixels), "
             f"for {a.seeds} seeds")
    good, worst = is_own.all(0), levels.max(0).values[kept]
    spread = worst.quantile(torch.tensor([0.0, 0.5, 1.0])).tolist() if kept else "none"
    print(f"{len(rows)} candidates; own drawing nearest for all seeds: {good.float().mean():.1%}; "
          f"kept: {len(kept)}, distances {spread}")
    showcase = {"judge": judge, "rows": [[c[i].item() for c in columns] for i in kept]}
    if a.write:
        rewritten(a.weights, showcase)
    else:
        print(json.dumps(showcase))
    return showcase
