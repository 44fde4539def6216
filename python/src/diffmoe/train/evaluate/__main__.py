"""Evaluate a weights file, or write the tables:

    python -m diffmoe.train.evaluate emoji    --weights assets/emoji.safetensors --data-root DATA --out emoji.json
    python -m diffmoe.train.evaluate eurosat  --weights assets/eurosat.safetensors --data-root DATA --out eurosat.json
    python -m diffmoe.train.evaluate judges   --weights assets/emoji.safetensors OTHER.safetensors --data-root DATA --out j.json
    python -m diffmoe.train.evaluate showcase --weights assets/emoji.safetensors --data-root DATA --write
    python -m diffmoe.train.evaluate render   docs/results.md docs/results/*.json docs/results/miniature/*.json

showcase finds the pairs for a model's default images.  emoji also evaluates text-conditioned models; judges compares files
of one kind with real images (it needs the packages for the public features, see ``public``); the files in the last folder
come from ``diffmoe.train.compare``.
"""

import argparse
import json
import os

import torch

from ...routing import RULES
from ...schedulers import suitable
from . import emoji, eurosat, judges, render, showcase


def sampling_arguments(p):
    p.add_argument("--weights", required=True)
    p.add_argument("--out", required=True, help="JSON file to write")
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--probes", help="folder in which probes are cached, so that all files are judged by the same ones")
    p.add_argument("--images", "--pictures", dest="images", help="folder in which generated images are cached")
    p.add_argument("--title", help="column title in the tables; default: the number of training images")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, help="default: the file's")
    p.add_argument("--guidance", type=float, help="default: the file's")
    p.add_argument("--solver", choices=[kind.name for kind in suitable("flow")], help="default: the file's")
    p.add_argument("--rule", choices=RULES, default="token",
                   help="token: an image does not depend on its batch")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--threads", type=int, default=1)


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m diffmoe.train.evaluate", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    e = sub.add_parser("emoji")
    sampling_arguments(e)
    e.add_argument("--per-pair", type=int, default=1, help="images of each seen (subject, style) pair")
    e.add_argument("--seen-pairs", type=int, default=0, help="only this many seen pairs, drawn at random (0: all)")
    e.add_argument("--per-held-out", type=int, default=8, help="images of each held-out pair")
    e.add_argument("--sheet", help="PNG of the held-out pairs, the real image first")
    s = sub.add_parser("eurosat")
    sampling_arguments(s)
    s.add_argument("--per-class", type=int, default=32)
    s.add_argument("--loss-tiles", type=int, default=300,
                   help="real tiles of each split for the loss by noise level; a fifth of that for the loss of each class")
    s.add_argument("--public", action="store_true", help="also compute distances on the features of a public network")
    judges.arguments(sub.add_parser("judges"))
    showcase.arguments(sub.add_parser("showcase"))
    r = sub.add_parser("render")
    r.add_argument("page", help="Markdown file: text between its markers is replaced; created if missing")
    r.add_argument("results", nargs="+", help="JSON files of the other commands")
    a = p.parse_args(argv)
    if a.what == "render":
        render.run(a.page, a.results)
        return
    if a.what == "judges":
        judges.main(a)
        return
    if a.what == "showcase":
        showcase.run(a)
        return
    torch.set_num_threads(a.threads)
    out = {"emoji": emoji, "eurosat": eurosat}[a.what].run(a)
    out["title"] = a.title or f"{out['weights'].get('train_images', 0):,} images"
    os.makedirs(os.path.dirname(os.path.abspath(a.out)), exist_ok=True)
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump(out, f, indent=1, ensure_ascii=False)
        f.write("\n")


if __name__ == "__main__":
    main()
