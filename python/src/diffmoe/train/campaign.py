"""Train, export and evaluate a list of runs, one after another, unattended:

    python -m diffmoe.train.campaign configs/campaign.toml --data-root DATA [--out FOLDER]

The file lists runs, each with a config, a budget and a starting point:

    [[run]]
    name = "emoji_256"
    config = "emoji_256.toml"     # beside the campaign file
    hours = 6.5                   # of training (or images = 800_000; the first limit reached ends the run)
    init = "run:emoji_64"         # the export of an earlier run, or an exported file; none: from scratch
    dtype = "int8"                # of the export
    set = ["train.lr=8e-4"]       # like --set of the trainer
    evaluate = ["judges", "--seen-pairs", "200"]   # arguments of diffmoe.train.evaluate; none: not evaluated
    against = "../../assets/emoji.safetensors"     # compared with it ("judges" only)

FOLDER (default ``campaign``) contains a folder per run, ``state.json`` with the finished stages, and ``report.md``: hours
and images spent, the error on held-out images before and after, and the tables of the evaluation.  The campaign can be
killed at any time; the same command resumes it: training from its last checkpoint (with the same weights as if it had
not been killed), later stages from their beginning; finished stages are skipped.  To extend a run, give it a longer
budget and remove its stages from state.json.

If a run measures the error on held-out images (train.judge_minutes), the average with the lowest error is exported."""

import argparse
import json
import os

from . import config as configs
from . import data, export, heldout, loop, toml
from .evaluate import __main__ as evaluation
from .evaluate import judges
from .exported import load_exported

KEYS = {"name", "config", "hours", "images", "init", "dtype", "set", "evaluate", "against"}
STAGES = ("train", "export", "measure", "evaluate")


def read(path):
    """The runs of a campaign file, checked; paths are relative to it."""
    runs = toml.read(path).get("run", [])
    here, names = os.path.dirname(os.path.abspath(path)), []
    if not runs:
        raise ValueError(f"{path} has no [[run]]")
    for r in runs:
        if unknown := set(r) - KEYS:
            raise ValueError(f"unknown keys in a run of {path}: {sorted(unknown)}; known keys: {sorted(KEYS)}")
        if missing := {"name", "config"} - set(r):
            raise ValueError(f"a run of {path} lacks {sorted(missing)[0]}")
        if not (r.get("hours", 0) > 0 or r.get("images", 0) > 0):
            raise ValueError(f"run {r['name']!r} has no budget: give it hours or images above 0")
        if r["name"] in names:
            raise ValueError(f"two runs are called {r['name']!r}")
        source = r.get("init", "")
        if source.startswith("run:") and source[4:] not in names:
            raise ValueError(f"run {r['name']!r} starts from {source[4:]!r}, which is not an earlier run")
        names.append(r["name"])
        r["config"] = os.path.join(here, r["config"])
        for key in ("init", "against"):
            if r.get(key) and not r[key].startswith("run:"):
                r[key] = os.path.join(here, r[key])
    return runs


def write_atomic(path, text):
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(path + ".tmp", path)


class Campaign:
    def __init__(self, runs, out, data_root):
        self.runs, self.out, self.data_root = runs, out, data_root
        self.path = os.path.join(out, "state.json")
        self.state = {}
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as f:
                self.state = json.load(f)

    def folder(self, name):
        return os.path.join(self.out, name)

    def file_of(self, name):
        """The export of a run."""
        return os.path.join(self.folder(name), f"{name}.safetensors")

    def source(self, r):
        """The file that a run starts from, or "" for scratch."""
        init = r.get("init", "")
        return self.file_of(init[4:]) if init.startswith("run:") else init

    def config(self, r):
        more = [f"name={r['name']}", *r.get("set", [])]
        if r.get("hours"):
            more.append(f"train.max_hours={r['hours']}")
        if self.source(r):
            more.append(f"train.init={json.dumps(self.source(r))}")
        c = configs.load(r["config"], more)
        if r.get("images"):
            c.train.steps = -(-r["images"] // c.train.batch)
        elif not any(s.startswith("train.steps=") for s in r.get("set", [])):
            c.train.steps = 10**9  # only the hours limit the run
        return c

    def train(self, r):
        trainer = loop.Trainer(self.config(r), self.data_root, self.folder(r["name"]), resume=True)
        trainer.train()
        return {"steps": trainer.step, "images": trainer.images, "hours": round(trainer.seconds() / 3600, 3)}

    def export(self, r):
        folder = self.folder(r["name"])
        best = os.path.join(folder, "best.pt")
        checkpoint = best if os.path.exists(best) else os.path.join(folder, "last.pt")
        dtype = r.get("dtype", "f16")
        export.main([checkpoint, self.file_of(r["name"]), "--dtype", dtype, "--data-root", self.data_root])
        return {"from": os.path.basename(checkpoint), "dtype": dtype, "bytes": os.path.getsize(self.file_of(r["name"]))}

    def measure(self, r):
        """Error on held-out images of the starting point and of the export, with the same noise."""
        c = self.config(r)
        if not c.train.judge_minutes:
            return {}
        out = {}
        for which, path in (("before", self.source(r)), ("after", self.file_of(r["name"]))):
            if not path:
                continue
            model, meta = load_exported(path)
            if meta["params"]["input_size"] != c.model.input_size or ("text" in meta) != bool(c.text.hidden_size):
                continue  # another size or kind of condition is not comparable
            tokenizer = meta.get("text", {}).get("tokenizer")
            sets = {name: data.load_for(c, self.data_root, split, tokenizer)
                    for name, split in (("held_out", "test"), ("seen", "train"))}
            if which == "before" and [l.values for l in sets["seen"].tables] != [l["values"] for l in meta["labels"]]:
                continue  # its rows are other labels
            errors = heldout.HeldOut(sets, c.train.judge_images).measure(model)
            out[which] = {**errors, "figure": heldout.figure(errors["held_out"])}
        return out

    def evaluate(self, r):
        arguments = r.get("evaluate")
        if not arguments:
            return {}
        kind, *more = arguments
        folder, weights = self.folder(r["name"]), [self.file_of(r["name"])]
        if kind == "judges":
            weights = [r["against"], *weights] if r.get("against") else weights
            more += ["--cache", os.path.join(self.out, "cache")]
            if r.get("against"):
                more += ["--titles", "before", r["name"]]
        else:
            more += ["--images", os.path.join(self.out, "cache"), "--probes", os.path.join(self.out, "probes")]
        out = os.path.join(folder, "evaluation.json")
        evaluation.main([kind, "--weights", *weights, "--out", out, "--data-root", self.data_root, *more])
        return {"file": os.path.basename(out)}

    def run(self):
        os.makedirs(self.out, exist_ok=True)
        for r in self.runs:
            done = self.state.setdefault(r["name"], {})
            for stage in STAGES:
                if stage in done:
                    continue
                print(f"campaign: {r['name']}, {stage}", flush=True)
                done[stage] = getattr(self, stage)(r)
                write_atomic(self.path, json.dumps(self.state, indent=1) + "\n")
                write_atomic(os.path.join(self.out, "report.md"), self.report())

    def report(self):
        lines = ["# Campaign", "", "| run | hours | images | file | held-out error before | after | change |",
                 "|---|---|---|---|---|---|---|"]
        for r in self.runs:
            s = self.state.get(r["name"], {})
            t, e, m = (s.get(k, {}) for k in ("train", "export", "measure"))
            before, after = (m.get(k, {}).get("figure") for k in ("before", "after"))
            show = lambda v, form: "–" if v is None else form.format(v)
            lines.append(" | ".join(["| " + r["name"], show(t.get("hours"), "{:.2f}"), show(t.get("images"), "{:,}"),
                                     f"{e['bytes'] / 1e6:.1f} MB, {e['dtype']}, {e['from']}" if e else "–",
                                     show(before, "{:.6f}"), show(after, "{:.6f}"),
                                     show(after / before - 1 if before and after else None, "{:+.1%}")]) + " |")
        lines += ["", "Error of the predicted image on held-out images, geometric mean over noise levels "
                  f"(t = {', '.join(f'{t:g}' for t in heldout.TIMES)})."]
        for r in self.runs:
            s = self.state.get(r["name"], {})
            if m := s.get("measure"):
                lines += ["", f"## {r['name']}", "", "| error | " + " | ".join(f"t = {t:g}" for t in heldout.TIMES) + " |",
                          "|---" * (len(heldout.TIMES) + 1) + "|"]
                lines += [f"| {part.replace('_', '-')}, {which} | " + " | ".join(f"{v:.4f}" for v in m[which][part]) + " |"
                          for part in ("held_out", "seen") for which in m]
            if name := s.get("evaluate", {}).get("file"):
                with open(os.path.join(self.folder(r["name"]), name), encoding="utf-8") as f:
                    result = json.load(f)
                if result["kind"] == "emoji_judges":
                    lines += ["", judges.table([result])]
        return "\n".join(lines) + "\n"


def only_one(out):
    """Lock the folder for this process; the system releases the lock however the process ends."""
    os.makedirs(out, exist_ok=True)
    lock = open(os.path.join(out, "lock"), "w")
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit(f"another campaign is running in {out}") from None
    return lock


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("campaign")
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--out", default="campaign")
    a = p.parse_args(argv)
    runs = read(a.campaign)
    lock = only_one(a.out)
    Campaign(runs, a.out, a.data_root).run()
    lock.close()


if __name__ == "__main__":
    main()
