"""Tables of a trace: load and balance of the experts.

capacity           C: mean number of experts per token
effective_experts  exp(entropy of the experts' loads) / E: 1 if all do the same, 1/E if one does everything
largest_load       load of the busiest expert over the fair share
dead               share of experts that took no token
skipped            share of tokens that no expert took
"""

from __future__ import annotations

import numpy as np

COLUMNS = ("capacity", "effective_experts", "largest_load", "dead", "skipped")


def load(taken: np.ndarray, tokens: int, skipped: int) -> dict:
    """The five columns, from the tokens that each expert took ``[E]``, the number of tokens, and the number of tokens that no
    expert took. ``effective_experts`` and ``largest_load`` are None if no token was taken."""
    taken = np.asarray(taken, np.float64)
    total = taken.sum()
    effective = largest = None
    if total:
        shares = taken[taken > 0] / total
        effective = float(np.exp(-(shares * np.log(shares)).sum()) / len(taken))
        largest = float(taken.max() * len(taken) / total)
    values = (total / max(tokens, 1), effective, largest, np.mean(taken == 0), skipped / max(tokens, 1))
    return {key: None if value is None else float(value) for key, value in zip(COLUMNS, values)}


def _loads(trace, passes: np.ndarray, counts: np.ndarray) -> list[dict]:
    """One row per MoE layer, over the selected passes."""
    tokens = int(passes.sum()) * trace.masks.shape[2]
    skipped = (trace.masks[passes] == 0).sum((0, 2))
    return [load(counts[passes, i].sum(0), tokens, int(skipped[i])) for i in range(len(trace.blocks))]


def by_layer(trace) -> list[dict]:
    """One row per step and MoE layer, over all passes of the step."""
    rows, counts = [], trace.counts()
    for step in range(trace.steps):
        passes = trace.step == step
        if passes.any():
            time = trace.time[passes][0]
            for block, numbers in zip(trace.blocks, _loads(trace, passes, counts)):
                rows.append({"step": step, "time": shortest(time), "block": int(block), **numbers})
    return rows


def by_expert(trace) -> list[dict]:
    """One row per step, MoE layer and expert."""
    rows, counts = [], trace.counts()
    for step in range(trace.steps):
        passes = trace.step == step
        if not passes.any():
            continue
        time, pool = shortest(trace.time[passes][0]), int(passes.sum()) * trace.masks.shape[2]
        for i, block in enumerate(trace.blocks):
            taken = counts[passes, i].sum(0)
            for e, count in enumerate(taken):
                fair = float(count * trace.experts / taken.sum()) if taken.sum() else None
                rows.append(
                    {"step": step, "time": time, "block": int(block), "expert": e, "tokens": int(count)}
                    | {"share_of_tokens": float(count / pool), "load_over_fair_share": fair}
                )
    return rows


def by_image(trace) -> list[dict]:
    """One row per image: its labels, and ``C`` over its conditional passes."""
    capacity = trace.capacity_by_image()
    return [
        {"image": i, "labels": ", ".join(names[i] for names in trace.labels), "capacity": float(capacity[i])}
        for i in range(len(capacity))
    ]


TABLES = {"layer": by_layer, "expert": by_expert, "image": by_image}


def summary(trace) -> list[dict]:
    """Rows for the whole run, each block and each step."""
    layers = by_layer(trace)
    steps = [_mean([row for row in layers if row["step"] == step]) for step in range(trace.steps)] if layers else []
    every = np.ones(len(trace.step), bool)
    blocks = _loads(trace, every, trace.counts()) if layers else []
    rows = [{"part": "whole run", **_mean(steps)}] if steps else []
    rows += [{"part": f"block {block}", **numbers} for block, numbers in zip(trace.blocks, blocks)]
    return rows + [{"part": f"step {step}", **numbers} for step, numbers in enumerate(steps)]


def _mean(rows: list[dict]) -> dict:
    """Mean of each column, ignoring None."""
    known = {key: [row[key] for row in rows if row[key] is not None] for key in COLUMNS}
    return {key: sum(values) / len(values) if values else None for key, values in known.items()}


def shortest(time: np.float32) -> float:
    """The shortest decimal number that rounds to a float32."""
    return float(np.format_float_positional(time, unique=True))


def csv(rows: list[dict]) -> str:
    """Rows as comma-separated text; whole numbers have no decimal point."""

    def cell(value):
        if isinstance(value, float):
            return np.format_float_positional(value, trim="-")
        return "" if value is None else str(value)

    header = ("step", "time", "block", *COLUMNS)
    return "".join(",".join(line) + "\n" for line in [header, *([cell(row[key]) for key in header] for row in rows)])


def shape(rows: list[dict], form: str):
    """Rows as a list of dicts, a structured array or a DataFrame; None becomes NaN in the last two."""
    if form == "records":
        return rows
    if form == "pandas":
        try:
            import pandas
        except ImportError:
            raise ImportError('form="pandas" needs pandas: `pip install pandas`, or use form="array"') from None
        return pandas.DataFrame(rows)
    if form != "array":
        raise ValueError(f'form must be "records", "array" or "pandas", got {form!r}')
    if not rows:
        return np.zeros(0)

    def column(key):
        values = [row[key] for row in rows]
        return np.array([np.nan if value is None else value for value in values])

    columns = {key: column(key) for key in rows[0]}
    out = np.empty(len(rows), [(key, values.dtype) for key, values in columns.items()])
    for key, values in columns.items():
        out[key] = values
    return out
