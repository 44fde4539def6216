"""Tables and curves of the comparison in miniature (``diffmoe.train.compare``):
mean and standard deviation over seeds."""

import os
import statistics

NAMES = {"dense": "Dense", "tc": "TC (token choice)", "ec": "EC (expert choice)", "diffmoe": "DiffMoE"}
OBJECTIVES = {"miniature": "rectified flow", "miniature_ddpm": "DDPM with learned variances"}
SOLVERS = {"euler": "Euler", "heun": "Heun", "ddpm": "ancestral", "ddim": "DDIM", "dpmpp_2m": "DPM-Solver++(2M)", "unipc": "UniPC"}
LOSSES = {"miniature": "velocity", "miniature_ddpm": "noise and variance"}
RULES = {"pool": "", "token": ", rule `token`", "static": ", static top-k"}


def spread(values, digits=4):
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def grouped(runs):
    """{data: {architecture: [runs]}} in the order of the paper's tables."""
    out = {}
    for d in sorted({r["data"] for r in runs}, reverse=True):
        mine = {a: [r for r in runs if (r["data"], r["architecture"]) == (d, a)] for a in NAMES}
        out[d] = {a: rs for a, rs in mine.items() if rs}
    return out


def budget(runs):
    r = runs[0]
    seeds = ", ".join(map(str, sorted({q["seed"] for q in runs})))
    times = f", {r['t_dist'].replace('_', '-')} t" if "t_dist" in r else ""
    return (f"Every model: {r['depth']} blocks, width {r['hidden_size']}, 64 tokens (32×32 images, patch 4), "
            f"{r['num_experts']} experts in every second block; {r['steps']} steps of {r['batch']} = {r['images']:,} images, "
            f"AdamW {r['lr']:g} with linear decay, {OBJECTIVES[r['kind']]}{times}, bfloat16; seeds {seeds} "
            f"(weights, batches and noise). Sampled with {r['sampling']['steps']} {SOLVERS[r['sampling']['solver']]} steps "
            f"without guidance, {r['pictures']['pool']['n']:,} images; validation on {r['validation_n']:,} test images. "
            "± is the standard deviation over seeds.")


def main_table(runs, table):
    parts = []
    for data, architectures in grouped(runs).items():
        first = next(iter(architectures.values()))[0]
        rows = []
        for a, every in architectures.items():
            for rule in [r for r in RULES if any(r in q["pictures"] for q in every)]:
                rs = [r for r in every if rule in r["pictures"]]
                mean = [statistics.mean(r["validation"][rule].values()) for r in rs]
                of = lambda key: [r["pictures"][rule][key] for r in rs]
                rows.append([NAMES[a] + RULES[rule], len(rs), f"{rs[0]['activated'] / 1e6:.2f} M",
                             f"{rs[0]['parameters'] / 1e6:.2f} M", "1" if a == "dense" else spread(of("C"), 2),
                             spread(mean), spread(of("frechet"), 2),
                             f"{100 * statistics.mean(of('class')):.0f} %",
                             spread([1000 * r["cpu_seconds"] / r["images"] for r in rs], 1)])
        parts.append(f"**{data}** (distance of the same number of real test images: {first['frechet_of_real']:.2f}; accuracy "
                     f"of the classifier on them: {100 * first['probe']['share']:.1f} %)\n\n" + table(
            ["model", "seeds", "activated", "stored", "C while sampling", "validation loss",
             "Fréchet distance on probe features", "class correct", "training, CPU ms per image"], rows))
    return "\n\n".join(parts)


def noise_table(runs, table):
    parts = []
    for data, architectures in grouped(runs).items():
        times = list(next(iter(architectures.values()))[0]["validation"]["pool"])
        rows = [[NAMES[a], *(spread([r["validation"]["pool"][t] for r in rs]) for t in times)]
                for a, rs in architectures.items()]
        parts.append(f"**{data}**\n\n" + table(["validation loss", *(f"t = {t}" for t in times)], rows))
    return "\n\n".join(parts)


def gamma_table(runs, table):
    """One fixed threshold for all experts compared with the learned ones (paper, Table 10)."""
    mine = [r for r in runs if r.get("gamma")]
    if not mine:
        return "Not measured."
    rows = [[f"γ = {g}", spread([r["gamma"][g]["C"] for r in mine], 2), spread([r["gamma"][g]["frechet"] for r in mine], 2)]
            for g in mine[0]["gamma"]]
    rows.append(["learned thresholds", spread([r["pictures"]["pool"]["C"] for r in mine], 2),
                 spread([r["pictures"]["pool"]["frechet"] for r in mine], 2)])
    seeds = ", ".join(str(r["seed"]) for r in mine)
    return table([f"{mine[0]['data']}, seed {seeds}", "C while sampling", "Fréchet distance on probe features"], rows)


def curves(runs, folder):
    """One SVG per data set: smoothed training loss over images, one line per seed."""
    try:
        import matplotlib
    except ImportError as e:
        raise SystemExit(f"{e}; the curves need: pip install 'diffmoe[evaluate]'") from e

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "diffmoe"  # the same bytes for the same numbers
    import matplotlib.pyplot as plt

    paths = []
    for data, architectures in grouped(runs).items():
        figure, axes = plt.subplots(figsize=(7, 4))
        for (a, rs), colour in zip(architectures.items(), ("#777777", "#d95f02", "#7570b3", "#1b9e77")):
            for r in rs:
                if not r["curve"]:  # a run shorter than one row of the log
                    continue
                images, loss = zip(*r["curve"])
                mean, smooth = loss[0], []
                for v in loss:
                    mean = 0.7 * mean + 0.3 * v
                    smooth.append(mean)
                axes.plot(images, smooth, color=colour, linewidth=1, label=NAMES[a] if r is rs[0] else None)
        axes.set(xlabel="images", ylabel=f"training loss ({LOSSES[rs[0]['kind']]}), smoothed", title=data, yscale="log")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3, which="both")
        figure.tight_layout()
        paths.append(os.path.join(folder, f"miniature-{data}.svg"))
        figure.savefig(paths[-1], metadata={"Date": None})
        plt.close(figure)
    return paths


def tables(kind, table):
    """The tables of one kind of run; their markers begin with the kind."""
    mark = kind.replace("_", " ")
    out = {f"{mark} settings": budget, f"{mark} table": lambda r: main_table(r, table),
           f"{mark} noise": lambda r: noise_table(r, table)}
    return out if mark != "miniature" else {**out, f"{mark} gamma": lambda r: gamma_table(r, table)}
