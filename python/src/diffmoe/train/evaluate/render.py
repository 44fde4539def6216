"""Tables of docs/results.md from the JSON files of the evaluations.

Each table replaces the text between ``<!-- NAME -->`` and ``<!-- end NAME -->``;
the text around it is written by hand.  A new page starts from page.md in this
folder."""

import json
import os
import re

from . import judges, miniature
from .markdown import table

BLANK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.md")


def percent(v):
    return f"{100 * v:.1f} %"


def interval(s, key="wilson"):
    lo, hi = s[key]
    return f"{100 * lo:.1f}–{100 * hi:.1f}"


def cell(s):
    return f"{percent(s['share'])} ({interval(s)})"


ASKED = [("probe", "subject"), ("probe", "style"), ("probe", "both"),
         ("nearest", "subject"), ("nearest", "style"), ("nearest", "both")]


PARTS = {"seen": "seen pairs", "held_out": "held-out pairs", "seen_reworded": "seen pairs in unseen sentences",
         "held_out_reworded": "held-out pairs in unseen sentences"}


def agreement(runs, part):
    rows = [[f"{witness}: {what}", *(cell(r[part][witness][what]) for r in runs), percent(runs[0]["chance"][what])]
            for witness, what in ASKED]
    if part.startswith("held_out"):
        rows.append(["nearest is the held-out image itself",
                     *(cell(r[part]["nearest_is_held_out"]) for r in runs), ""])
        rows.append(["probe: both, bootstrap over pairs",
                     *(interval(r[part]["probe"]["both"], "over_groups") for r in runs), ""])
    rows.append(["median distance to the nearest real image (8-bit levels, RMS)",
                 *(f"{r[part]['distance']['median']:.1f}" for r in runs), ""])
    rows.append(["C while sampling", *(f"{r[part]['C']['mean']:.2f}" for r in runs), ""])
    n = runs[-1][part]
    return table([f"{n['pairs']} {PARTS[part]}, {n['per_pair']} each", *(r["title"] for r in runs), "chance"], rows)


def negative(runs):
    if not (n := runs[-1].get("negative")):
        return "Not measured for this file."
    rows = [["none", cell(n["none"]["subject"]), "", ""]]
    rows += [[title, *(cell(n[key][what]) for what in ("subject", "same_style", "avoided"))]
             for key, title in (("own", "the style that was drawn without one"), ("other", "another style"))]
    return table([f"negative prompt, {n['prompts']} subjects", "right subject", "style as without one",
                  "style of the negative prompt"], rows)


def emoji_styles(runs):
    keys = list(runs[-1]["seen"]["by_style"]["C"])
    parts = [("subject_right", percent), ("style_right", percent), ("C", lambda v: f"{v:.2f}")]
    head = ["style", "style correct, real", *(f"{name}, {r['title']}" for name in ("subject correct", "style correct", "C")
                                            for r in runs)]
    real = [percent(s["share"]) for s in runs[-1]["probe"]["style"]["unseen_by_style"]]
    return table(head, [[k, real[i], *(f(r["seen"]["by_style"][p][k]) for p, f in parts for r in runs)]
                        for i, k in enumerate(keys)])


def emoji_probe(runs):
    p = runs[-1]["probe"]
    rows = [["unseen images", "unseen"], ["unseen images of held-out pairs", "unseen_held_out"],
            ["unseen images, augmented as in training", "unseen_augmented"],
            ["its training images, augmented as in training", "own_augmented"]]
    of = lambda r, key: cell(r[key]) if key in r else "–"
    return table(["accuracy on real images",
                  f"subject probe ({p['subject']['folds']}-fold)", f"style probe ({p['style']['folds']}-fold)"],
                 [[name, of(p["subject"], k), of(p["style"], k)] for name, k in rows])


def noise(columns):
    """columns: [(title, {"n", "loss"})]."""
    times = list(columns[0][1]["loss"])
    return table(["real images", "n", *(f"t = {t}" for t in times)],
                 [[title, c["n"], *(f"{c['loss'][t]:.4f}" for t in times)] for title, c in columns])


def emoji_noise(runs):
    return noise([(f"{part.replace('_', '-')} pairs, {r['title']}", r[part]["noise"])
                  for part in ("seen", "held_out") for r in runs])


def settings(runs):
    s = runs[-1]["settings"]
    return (f"Sampling: {miniature.SOLVERS[s['solver']]}, {s['steps']} steps, guidance {s['guidance']:g}, routing rule "
            f"`{s['rule']}`, noise seed {s['seed']}, float32 on a CPU with the weights as stored in the file.")


def eurosat_classes(runs):
    r = runs[-1]
    names = list(r["classes"])
    rows = []
    for i, n in enumerate(names):
        c = r["classes"][n]
        wrong = sorted(c["taken_for"].items(), key=lambda kv: -kv[1])[:2]
        rows.append([n, cell(r["probe"]["unseen_by_class"][i]), cell(c),
                     ", ".join(f"{k} {v}" for k, v in wrong) or "–", f"{c['loss']:.4f}", f"{c['C']:.2f}"])
    mean = sum(c["loss"] for c in r["classes"].values()) / len(names)
    rows.append(["**all**", cell(r["probe"]["unseen"]), cell(r["class"]), f"chance {percent(r['chance'])}", f"{mean:.4f}",
                 f"{r['C']:.2f}"])
    return table(["class", f"real test tiles (n = {r['probe']['unseen']['n']})",
                  f"generated ({r['per_class']} each)", "most often mistaken for", "loss on real test tiles",
                  "C while sampling"], rows)


def eurosat_difficulty(runs):
    r = runs[-1]
    return (f"Rank correlation (Spearman) of a class's loss and its C, over {len(r['classes'])} classes: "
            f"{r['loss_and_C']:.2f}.")


def eurosat_frechet(runs):
    rows = []
    for r in runs:
        f = r["frechet_on_probe_features"]
        rows += [[f"generated, {r['title']}", f["n"], f"{f['generated']:.3f}"],
                 ["real test tiles", f["n_real"], f"{f['real']:.3f}"]]
    return table(["against all training tiles", "n", "Fréchet distance on probe features"], rows)


def eurosat_gradient(runs):
    r = runs[-1]
    if not all("gradient" in c for c in r["classes"].values()):
        return "Not measured for this file."
    rows = [[name, judges.number(c["gradient_real"]), judges.number(c["gradient"]),
             f"{c['gradient']['value'] / real:.2f}" if (real := c["gradient_real"]["value"]) else "–"]
            for name, c in r["classes"].items()]
    return table(["mean step between neighbouring pixels, 8-bit levels", "real test tiles", "generated", "ratio"], rows)


def eurosat_sets(runs):
    r = runs[-1]
    if "sets" not in r:
        return "Not measured for this file (`--public`)."
    columns = [{"title": name, "set": s} for name, s in r["sets"].items()]
    return table(["all tiles as a set, against the test tiles", *(c["title"] for c in columns)],
                 judges.rows_for(columns, "set"))


def eurosat_noise(runs):
    return noise([(f"{part} tiles", runs[-1]["noise"][part]) for part in ("train", "test")])


TABLES = {
    "emoji": {"emoji settings": settings, "emoji seen": lambda r: agreement(r, "seen"),
              "emoji held-out": lambda r: agreement(r, "held_out"), "emoji styles": emoji_styles,
              "emoji probe": emoji_probe, "emoji noise": emoji_noise},
    "emoji_text": {"text settings": settings,
                   **{f"text {part.replace('_', ' ')}": lambda r, part=part: agreement(r, part) for part in PARTS},
                   "text negative": negative},
    "eurosat": {"eurosat settings": settings, "eurosat classes": eurosat_classes,
                "eurosat difficulty": eurosat_difficulty,
                "eurosat gradient": eurosat_gradient, "eurosat frechet": eurosat_frechet, "eurosat sets": eurosat_sets,
                 "eurosat noise": eurosat_noise},
    "emoji_judges": {"emoji judges": judges.table},
    **{kind: miniature.tables(kind, table) for kind in miniature.OBJECTIVES},
}


def fill(page, results):
    """The page with every table for which there are results; a marker without an end is an error."""
    for kind, tables in TABLES.items():
        runs = [r for r in results if r["kind"] == kind]
        if kind not in (*miniature.OBJECTIVES, "emoji_judges"):
            runs.sort(key=lambda r: r["weights"].get("train_images", 0))
        for name, make in tables.items():
            start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
            if (start in page) != (end in page):
                raise ValueError(f"the page has only one of {start} and {end}")
            if runs and start in page:
                body = f"{start}\n{make(runs)}\n{end}"
                page = re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _: body, page, flags=re.S)
    return page


def run(path, result_paths):
    results = []
    for p in result_paths:
        with open(p, encoding="utf-8") as f:
            results.append(json.load(f))
    with open(path if os.path.exists(path) else BLANK, encoding="utf-8") as f:
        page = f.read()
    with open(path, "w", encoding="utf-8") as f:
        f.write(fill(page, results))
    if runs := [r for r in results if r["kind"] in miniature.OBJECTIVES]:
        folder = os.path.join(os.path.dirname(os.path.abspath(path)), "results")
        os.makedirs(folder, exist_ok=True)
        miniature.curves(runs, folder)
