"""Draw images:  python -m diffmoe.train.sample MODEL.safetensors OUT.png --labels "dog face,noto" "pizza,blob"
or, with a text-conditioned model:  ... --prompts "a robot, fluent 3d" "pizza, *" [--negative "blob"]

Give one argument per image: the label values joined by commas; * stands for
every value of a column and - for no label.  In a prompt * is every style."""

import argparse
import itertools
import math

import numpy as np
import torch
from PIL import Image

from ..images import to_bytes
from ..routing import RULES
from ..schedulers import ALL
from . import prompts, sampler
from .exported import described_reader, load_exported


def to_png(x, path, columns, scale=3, gap=2):
    """x [N, 3, s, s] in [-1, 1] as one grid."""
    n, _, s, _ = x.shape
    rows = math.ceil(n / columns)
    x = to_bytes(x.float().cpu().numpy())
    sheet = np.full((rows * (s + gap) - gap, columns * (s + gap) - gap, 3), 128, np.uint8)
    for i in range(n):
        r, c = divmod(i, columns)
        sheet[r * (s + gap) : r * (s + gap) + s, c * (s + gap) : c * (s + gap) + s] = x[i]
    Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.NEAREST).save(path)


def draw(model, columns, steps, guidance, solver, seed=0, batch=64, negative=None):
    """columns: one list of label indices per table, or [token ids]; negative:
    the same for the unconditional pass; solver: see ``sampler.sample``.  Returns [N, C, s, s]."""
    n = len(columns[0])
    device = model.pos_embed.device
    s = model.grid * model.patch_size
    z = torch.randn(n, model.in_channels, s, s, generator=torch.Generator().manual_seed(seed)).to(device)
    columns = [torch.as_tensor(c, device=device) for c in columns]
    part = lambda columns, i: columns and [c[i : i + batch] for c in columns]
    out = [sampler.sample(model, z[i : i + batch], part(columns, i), steps, guidance, solver, part(negative, i),
                          part=i // batch)
           for i in range(0, n, batch)]
    return torch.cat(out)


def expand(requests, labels):
    """Label indices for requests like "dog face,noto", with * and -."""
    rows = []
    for r in requests:
        parts = [q.strip() for q in r.split(",")] if len(labels) > 1 else [r]
        options = [range(len(l.values)) if q == "*" else [len(l.values) if q == "-" else l.values.index(q)]
                   for q, l in zip(parts, labels, strict=True)]
        rows += itertools.product(*options)
    return [list(c) for c in zip(*rows)]


def save_grid(model, dataset, c, path):
    """The grid drawn during training: Euler or ancestral, with the run's steps and guidance.
    For latents, the first three channels are shown."""
    labels = dataset.labels
    if dataset.prompter:
        requests = c.grid or [f"{name}, *" for name in labels[0].values[:8]]
        cols = [dataset.prompter.encode(prompts.expand(requests, labels[1].values))]
        width = len(labels[1].values)
    elif c.grid:
        cols = expand(c.grid, labels)
        width = len(labels[-1].values) if len(labels) > 1 else 8
    else:  # six of every value of the first column, the others without a label
        width = len(labels[0].values)
        cols = [list(range(width)) * 6] + [[len(l.values)] * (6 * width) for l in labels[1:]]
    was = model.training
    model.eval()
    try:
        to_png(draw(model, cols, c.steps, c.guidance, None)[:, :3], path, width)
    except FloatingPointError as error:  # a run that diverges goes on
        print(f"{path} is not drawn: {error}", flush=True)
    model.train(was)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("out")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--labels", nargs="+")
    what.add_argument("--prompts", nargs="+")
    p.add_argument("--negative", help="with --prompts: negative prompt")
    p.add_argument("--steps", type=int)
    p.add_argument("--guidance", type=float)
    p.add_argument("--solver", choices=[kind.name for kind in ALL])
    p.add_argument("--rule", choices=RULES, default="pool")
    p.add_argument("--columns", type=int, default=8)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(argv)
    model, meta = load_exported(a.model)
    model.set_rule(a.rule)
    config, negative = model.config, None
    if bool(a.prompts) != bool(model.text_encoder):
        p.error(f"this model needs {'--prompts' if model.text_encoder else '--labels'}")
    if a.prompts:
        reader = described_reader(meta)
        cols = [reader.encode(prompts.expand(a.prompts, prompts.STYLE_PHRASES))]
        if a.negative:
            negative = [reader.encode([a.negative]).expand_as(cols[0])]
    else:
        cols = expand(a.labels, config.labels)
    pick = lambda v, d: d if v is None else v
    if not config.pixels:
        p.error("this model generates latents: use `diffmoe sample --vae`")
    d = config.defaults
    x = draw(model, cols, pick(a.steps, d["steps"]), pick(a.guidance, d["guidance"]), a.solver or d["scheduler"], a.seed,
             negative=negative)
    to_png(x, a.out, a.columns)


if __name__ == "__main__":
    main()
