"""Inline SVG charts for notebooks: ``C`` over steps, and a heat map of loads."""

from __future__ import annotations

import numpy as np

from .images import data_uri

#: Colour ramp for counts and loads, dark to light, as in the app.
RAMP = ["#1b1044", "#641a80", "#b7376b", "#f07a3c", "#fbe68a"]
#: Colours of experts, as in the app; chosen to be distinguishable with colour vision deficiencies.
EXPERTS = ["#e59b04", "#4aadfc", "#20956d", "#de5211", "#524fd4", "#b7a7b0", "#8c74ba", "#d0db68"] + [
    "#935300",
    "#008055",
    "#77dac1",
    "#8e243c",
    "#a988cf",
    "#7b3f9e",
    "#5a6171",
    "#f1b797",
]
#: Load, in fair shares, of the lightest colour.
MOST_LOAD = 3.0
#: Limit on the number of loads embedded for hovering.
MOST_LOADS = 20_000


def ramp(share: np.ndarray) -> np.ndarray:
    """Colours ``[..., 3]``, uint8, for values from 0 to 1."""
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in RAMP], float)
    at = np.clip(share, 0, 1) * (len(RAMP) - 1)
    return np.stack([np.interp(at, range(len(RAMP)), anchors[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def by_layer(trace) -> tuple[np.ndarray, np.ndarray]:
    """``C`` of each MoE layer and step ``[steps, L]``, and loads over the fair share ``[steps, L, E]`` (NaN if no token was
    taken)."""
    counts = trace.counts()
    taken = np.stack([counts[trace.step == step].sum(0) for step in range(trace.steps)]).astype(float)
    passes = np.bincount(trace.step.astype(int), minlength=trace.steps)
    capacity = taken.sum(-1) / (np.maximum(passes, 1)[:, None] * trace.masks.shape[2])
    total = taken.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return capacity, np.where(total > 0, taken * trace.experts / total, np.nan)


def rounded_loads(trace) -> list:
    """Loads for the script ``[steps][L][E]``; empty if there are too many."""
    if not len(trace.blocks) or trace.steps * len(trace.blocks) * trace.experts > MOST_LOADS:
        return []
    loads = by_layer(trace)[1]
    return [[[None if np.isnan(v) else round(float(v), 2) for v in layer] for layer in step] for step in loads]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{text}</text>'


def _step_labels(steps: int, x, y: float) -> str:
    """Step numbers below a chart."""
    every = max(1, -(-steps // 8))
    shown = [step for step in range(steps) if step % every == 0]
    return "".join(_text(x(step), y, str(step), 'text-anchor="middle"') for step in shown)


def _spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Label positions near the wanted ones and at least ``gap`` apart."""
    order = np.argsort(wanted)
    out, at = [0.0] * len(wanted), low - gap
    for i in order:
        at = out[i] = max(wanted[i], at + gap)
    beyond = max(0.0, at - high)
    return [max(low, y - beyond) for y in out]


def capacity(trace) -> str:
    """``C`` over steps: the mean over MoE layers, and each layer."""
    width, height, left, right, top, bottom = 420, 236, 34, 58, 26, 34
    layers, _ = by_layer(trace)
    mean = trace.capacity_by_step()
    most = max(1.0, float(np.nanmax(layers)) * 1.05)
    tick = next(size for size in (0.25, 0.5, 1, 2, 4, 8) if most / size <= 5)

    def x(step):
        return left + (width - left - right) * (step / max(trace.steps - 1, 1))

    def y(value):
        return height - bottom - (height - top - bottom) * value / most

    def line(values, kind):
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
        dots = (
            "".join(f'<circle cx="{x(i):.1f}" cy="{y(v):.1f}" r="2.5"/>' for i, v in enumerate(values))
            if kind == "dm-mean"
            else ""
        )
        return f'<g class="{kind}"><polyline points="{points}"/>{dots}</g>'

    out = [f'<svg class="dm-curve" viewBox="0 0 {width} {height}" role="img" aria-label="C over steps" ']
    out.append(f'data-left="{left}" data-right="{width - right}" data-steps="{trace.steps}">')
    out.append(_text(0, 12, "C: mean number of experts per token", 'class="dm-title"'))
    for value in np.arange(0, most + 1e-9, tick):
        out.append(f'<line class="dm-grid" x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        out.append(_text(left - 6, y(value) + 4, f"{value:g}", 'text-anchor="end"'))
    out += [line(layers[:, i], "dm-layer") for i in range(layers.shape[1])]
    out.append(line(mean, "dm-mean"))
    ends = [y(layers[-1, i]) + 4 for i in range(layers.shape[1])]
    # More labels would not fit.
    if len(ends) <= 12:
        for block, at in zip(trace.blocks, _spread(ends, 11, top, height - bottom)):
            out.append(_text(width - right + 6, at, f"block {block}", 'class="dm-faint"'))
    out.append(_step_labels(trace.steps, x, height - bottom + 15))
    out.append(_text((left + width - right) / 2, height - 3, "step (noise to data)", 'text-anchor="middle" class="dm-faint"'))
    out.append(
        f'<line class="dm-now" x1="{x(trace.steps - 1):.1f}" x2="{x(trace.steps - 1):.1f}" y1="{top}" y2="{height - bottom}"/>'
    )
    return "".join(out) + "</svg>"


def loads(trace) -> str:
    """Heat map of loads over the fair share: experts of all MoE layers are rows, steps are columns."""
    _, values = by_layer(trace)
    steps, layers, experts = values.shape
    left, right, top, bottom, gap = 58, 12, 26, 50, 4
    width, cell = 420, max(1.5, min(9.0, 280 / (layers * experts)))
    band = cell * experts
    height = top + layers * (band + gap) - gap + bottom
    column = (width - left - right) / steps

    out = [
        f'<svg class="dm-loads" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="load of every expert at every step" '
    ]
    out.append(f'data-left="{left}" data-top="{top}" data-column="{column}" data-cell="{cell}" data-gap="{gap}">')
    out.append(_text(0, 12, "load of each expert over its fair share", 'class="dm-title"'))
    for i, block in enumerate(trace.blocks):
        at = top + i * (band + gap)
        pixels = ramp(np.nan_to_num(values[:, i].T) / MOST_LOAD)
        out.append(f'<image class="dm-pixels" preserveAspectRatio="none" x="{left}" y="{at:.1f}" ')
        out.append(f'width="{column * steps:.1f}" height="{band:.1f}" href="{data_uri(pixels)}"/>')
        out.append(_text(left - 6, at + band / 2 + 4, f"block {block}", 'text-anchor="end" class="dm-faint"'))
    below = height - bottom
    out.append(_step_labels(steps, lambda step: left + (step + 0.5) * column, below + 14))
    out.append(_text(width - right, height - 8, "step (noise to data)", 'text-anchor="end" class="dm-faint"'))
    bar = data_uri(ramp(np.linspace(0, 1, 120))[None])
    out.append(f'<image preserveAspectRatio="none" x="{left}" y="{height - 16:.1f}" width="120" height="8" href="{bar}"/>')
    for share, text in ((0, "0"), (1 / 3, "1"), (2 / 3, "2"), (1, "3 and more")):
        anchor = "start" if share == 1 else "middle"
        offset = 6 if share == 1 else 0
        out.append(
            _text(
                left + share * 120 + offset,
                height - (8 if share == 1 else 19),
                text,
                f'text-anchor="{anchor}" class="dm-faint"',
            )
        )
    out.append(
        f'<rect class="dm-now" x="{left + (steps - 1) * column:.1f}" y="{top}" '
        f'width="{column:.1f}" height="{below - top:.1f}"/>'
    )
    return "".join(out) + "</svg>"
