"""Matplotlib plots of a trace: ``C`` over steps, and the loads of experts."""

from __future__ import annotations

import numpy as np

from . import charts


def plot(trace, kind: str = "capacity", axes=None):
    """Plots ``"capacity"`` or ``"loads"`` into ``axes``, or new axes, and returns them."""
    try:
        from matplotlib import pyplot
        from matplotlib.colors import LinearSegmentedColormap
    except ImportError:
        raise ImportError("plots need matplotlib: `pip install matplotlib`") from None
    if kind not in ("capacity", "loads"):
        raise ValueError(f'kind must be "capacity" or "loads", got {kind!r}')
    if not len(trace.blocks):
        raise ValueError(f"{trace.model} has no experts, so there is nothing to plot")
    axes = pyplot.subplots()[1] if axes is None else axes
    capacity, loads = charts.by_layer(trace)
    if kind == "capacity":
        for i, block in enumerate(trace.blocks):
            axes.plot(capacity[:, i], color="0.6", linewidth=0.8, label=f"block {block}")
        axes.plot(trace.capacity_by_step(), color="#d9486e", linewidth=2, label="mean")
        axes.set(xlabel="step", ylabel="C: experts per token", ylim=(0, None))
        return axes
    colours = LinearSegmentedColormap.from_list("loads", charts.RAMP)
    rows = loads.reshape(trace.steps, -1).T
    image = axes.imshow(
        np.nan_to_num(rows), cmap=colours, vmin=0, vmax=charts.MOST_LOAD, aspect="auto", interpolation="nearest"
    )
    axes.figure.colorbar(image, ax=axes, label="load over fair share", extend="max")
    middle = (np.arange(len(trace.blocks)) + 0.5) * trace.experts - 0.5
    axes.set_yticks(middle, [f"block {block}" for block in trace.blocks])
    axes.hlines((np.arange(1, len(trace.blocks))) * trace.experts - 0.5, *axes.get_xlim(), color="white", linewidth=1)
    axes.set_xlabel("step")
    return axes
