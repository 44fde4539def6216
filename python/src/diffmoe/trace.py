"""The routing trace: which expert took which token, at every step and MoE layer (docs/trace-format.md).

A *pass* evaluates the model once over the pool of all tokens of all images in a batch. With guidance a step has two passes,
and Heun doubles that. Shapes: ``F`` passes, ``L`` MoE layers, ``S`` tokens of all images, ``E`` experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import balance, trace_files
from .config import MOST_EXPERTS
from .errors import TraceError

MOST_TOKENS, MOST_STEPS = 1 << 20, 100_000
#: Type and number of dimensions of each array.
ARRAYS = {
    "blocks": (np.uint32, 1),
    "step": (np.uint32, 1),
    "time": (np.float32, 1),
    "guided": (bool, 1),
    "gate": (np.float16, 4),
    "need": (np.float16, 4),
    "thresholds": (np.float32, 2),
    "scale": (np.uint32, 1),
}


@dataclass(eq=False, repr=False)
class Trace:
    """Routing of a run."""

    model: str
    experts: int  #: ``E``
    grid: tuple[int, int]  #: rows and columns of patches of an image
    labels: list[list[str]]  #: for each label table, the label name of each image; prompts are the last list
    blocks: np.ndarray  #: block index of each MoE layer ``[L]``
    step: np.ndarray  #: of each pass ``[F]``
    time: np.ndarray  #: model time of each pass ``[F]``, float32
    guided: np.ndarray  #: whether a pass was conditional ``[F]``, bool
    masks: np.ndarray  #: bit ``e`` is set if expert ``e`` took the token ``[F, L, S]``, uint32, or uint64 beyond 32 experts
    gate: np.ndarray | None = None  #: gate logits ``[F, L, S, E]``, float16
    need: np.ndarray | None = None  #: capacity predictor logits, likewise
    thresholds: np.ndarray | None = None  #: as probabilities ``[L, E]``, or ``[F, L, E]`` if passes differ in them, float32
    scale: np.ndarray | None = None  #: patches of the grid along the side of a token ``[F]``, uint32; None if always 1

    def __repr__(self) -> str:
        scores = "with" if self.has_scores else "without"
        size = f"{self.images} images of {self.grid[0]}×{self.grid[1]} tokens, {self.steps} steps"
        return f"<trace of {self.model}: {size}, {len(self.blocks)} layers of {self.experts} experts, {scores} scores>"

    # Files

    @classmethod
    def load(cls, path) -> Trace:
        """Reads a file written by ``diffmoe sample --trace`` or :meth:`save`: JSON or safetensors, format 1 or 2."""
        trace = cls(**trace_files.read(Path(path).read_bytes()))
        trace.check()
        return trace

    def save(self, path) -> None:
        """Writes the trace: safetensors if the file name ends in ``.safetensors``, else JSON."""
        is_safetensors = Path(path).suffix.lower() == ".safetensors"
        Path(path).write_bytes(trace_files.to_safetensors(self) if is_safetensors else trace_files.to_json(self))

    def check(self) -> None:
        """Raises :class:`TraceError` if the arrays are inconsistent."""

        def damaged(reason):
            raise TraceError(f"the trace is damaged: {reason}; write it again")

        if not 0 <= self.experts <= MOST_EXPERTS:
            damaged(f"{self.experts} experts, more than {MOST_EXPERTS}")
        arrays = ARRAYS | {"masks": (trace_files.mask_type(self.experts), 3)}
        for name, (kind, rank) in arrays.items():
            array = getattr(self, name)
            if name == "thresholds" and array is not None and array.ndim == 3:
                rank = 3
            if array is not None and (array.dtype != kind or array.ndim != rank):
                damaged(f"{name} is {array.dtype} with {array.ndim} dimensions, expected {np.dtype(kind)} with {rank}")
        if not 1 <= self.tokens <= MOST_TOKENS or min(self.grid) < 1:
            damaged(f"a grid of {self.grid[0]} × {self.grid[1]} patches")
        passes, layers, pool = self.masks.shape
        scale = np.ones(passes, np.uint32) if self.scale is None else self.scale
        if self.blocks.shape != (layers,) or any(a.shape != (passes,) for a in (self.step, self.time, self.guided, scale)):
            damaged("the numbers of passes or layers do not match")
        if any(s < 1 or self.grid[0] % s or self.grid[1] % s for s in scale.tolist()):
            damaged("a pass has tokens that do not divide the grid")
        if pool % self.tokens or (passes and layers and (pool == 0 or self.experts == 0)):
            damaged(f"masks of {pool} tokens and {self.experts} experts do not match {self.tokens} tokens per image")
        if np.any(np.diff(self.blocks.astype(np.int64)) <= 0):
            damaged(f"blocks {self.blocks.tolist()} are not in ascending order")
        if passes and layers and any(len(names) != self.images for names in self.labels):
            damaged(f"the number of labels does not match {self.images} images")
        steps = self.step.astype(np.int64)
        if np.any(np.diff(steps) < 0) or np.any(steps >= MOST_STEPS) or not np.isfinite(self.time).all():
            damaged("steps are not in order, or a time is not finite")
        if self.experts < MOST_EXPERTS and np.any(self.masks.astype(np.uint64) >> np.uint64(self.experts)):
            damaged(f"a mask has bits beyond its {self.experts} experts")
        full = (passes, layers, pool, self.experts)
        scores = [a for a in (self.gate, self.need) if a is not None]
        if any(a.shape != full for a in scores) or (self.gate is None and scores):
            damaged("the scores do not match the masks")
        shapes = (full[1::2], (passes, *full[1::2]))
        if (self.need is None) != (self.thresholds is None) or (
            self.thresholds is not None and (self.thresholds.shape not in shapes or np.isnan(self.thresholds).any())
        ):
            damaged("the thresholds do not match the scores")

    # Shape

    @property
    def tokens(self) -> int:
        """``T``, tokens per image."""
        return int(self.grid[0]) * int(self.grid[1])

    @property
    def images(self) -> int:
        """Number of images."""
        return self.masks.shape[2] // self.tokens

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.step[-1]) + 1 if len(self.step) else 0

    @property
    def has_scores(self) -> bool:
        """Whether the router's scores were recorded (format 2)."""
        return self.gate is not None

    # Routing

    def taken(self) -> np.ndarray:
        """Whether an expert took a token ``[F, L, S, E]``, bool."""
        bits = np.arange(self.experts, dtype=self.masks.dtype)
        return (self.masks[..., None] >> bits & 1).astype(bool)

    def _takes(self, expert: int) -> np.ndarray:
        kind = self.masks.dtype.type
        return self.masks >> kind(expert) & kind(1)

    def counts(self) -> np.ndarray:
        """Tokens per expert and pass ``[F, L, E]``."""
        counts = np.zeros((*self.masks.shape[:2], self.experts), np.int64)
        for e in range(self.experts):
            counts[..., e] = self._takes(e).sum(-1)
        return counts

    def experts_per_token(self) -> np.ndarray:
        """Number of experts per token ``[F, L, S]``."""
        count = np.zeros(self.masks.shape, np.uint8)
        for e in range(self.experts):
            count += self._takes(e).astype(np.uint8)
        return count

    def maps(self, step: int, guided: bool = True) -> np.ndarray:
        """Masks at a step ``[L, images, rows, columns]``. For Heun, those of the first pass, which is at the start of the
        step."""
        passes = np.flatnonzero((self.step == step) & (self.guided == guided))
        if not len(passes):
            raise TraceError(f"the trace has no such pass at step {step}; it has steps 0 to {self.steps - 1}")
        return self.masks[passes[0]].reshape(len(self.blocks), self.images, *self.grid)

    def capacity_by_step(self) -> np.ndarray:
        """``C`` of every step, averaged over its passes and MoE layers ``[steps]``."""
        if not len(self.blocks):
            return np.zeros(0)
        by_pass = self.experts_per_token().mean(-1).mean(-1)
        return np.array([by_pass[self.step == step].mean() for step in range(self.steps)])

    @property
    def capacity(self) -> float | None:
        """``C_avg``, the mean of ``C`` over steps; None for a model without experts."""
        steps = self.capacity_by_step()
        return float(steps.mean()) if len(steps) else None

    def capacity_by_image(self) -> np.ndarray:
        """``C`` of each image over its conditional passes."""
        count = self.experts_per_token()[self.guided]
        return count.reshape(-1, self.images, self.tokens).mean((0, 2)) if count.size else np.zeros(0)

    # Tables

    def table(self, by: str = "layer", form: str = "records"):
        """A tidy table.

        ``by``: ``"layer"`` (one row per step and MoE layer, with the columns of ``diffmoe trace --csv``), ``"expert"`` (one row
        per step, MoE layer and expert) or ``"image"``. ``form``: ``"records"`` (a list of dicts), ``"array"`` (a NumPy
        structured array) or ``"pandas"`` (a DataFrame).
        """
        rows = balance.TABLES.get(by)
        if rows is None:
            raise ValueError(f"by must be one of {', '.join(balance.TABLES)}, got {by!r}")
        return balance.shape(rows(self), form)

    def summary(self, form: str = "records"):
        """The table that ``diffmoe trace`` prints: whole run, blocks, steps. A step's row is the mean over layers, the run's
        the mean over steps; a block's row counts the tokens of all steps together."""
        return balance.shape(balance.summary(self), form)

    def to_csv(self) -> str:
        """The output of ``diffmoe trace --csv``."""
        return balance.csv(balance.by_layer(self))

    # Plots and notebooks

    def plot(self, kind: str = "capacity", axes=None):
        """Plots ``C`` over steps, or the load of every expert (``kind="loads"``), with matplotlib. Returns the axes."""
        from .plots import plot

        return plot(self, kind, axes)

    def to_html(self) -> str:
        """Self-contained HTML: capacity, loads, and the experts of each patch."""
        from .view import html

        return html(self)

    def _repr_html_(self) -> str:
        return self.to_html()


def join(traces: list[Trace]) -> Trace:
    """Joins the traces of the batches of a run; the tokens of each follow those of the previous one."""
    first = traces[0]

    def all_of(name, axis):
        parts = [getattr(trace, name) for trace in traces]
        return None if any(part is None for part in parts) else np.concatenate(parts, axis)

    labels = [sum(lists, []) for lists in zip(*(trace.labels for trace in traces))]
    same = (first.model, first.experts, first.grid, labels, first.blocks, first.step, first.time, first.guided)
    return Trace(*same, all_of("masks", 2), all_of("gate", 2), all_of("need", 2), first.thresholds, first.scale)


def on_grid(values: np.ndarray, grid: tuple[int, int], scale: int) -> np.ndarray:
    """Values of tokens ``[S, …]`` repeated for the patches of ``grid`` that each covers; ``scale`` patches along its side."""
    if scale == 1:
        return values
    tokens = values.reshape(-1, grid[0] // scale, grid[1] // scale, *values.shape[1:])
    return tokens.repeat(scale, 1).repeat(scale, 2).reshape(-1, *values.shape[1:])


def of_run(config, passes: list, labels: list[list[str]], scores: bool) -> Trace:
    """Trace of a batch from its passes (:class:`diffmoe.sampling.Pass`), on the grid of the finest patches: a larger token
    stands for every patch that it covers."""
    layers, grid = passes[0].layers, config.finest.grid
    tokens = config.finest.tokens * len(labels[0]) if layers else 0
    kind = trace_files.mask_type(config.num_experts)
    bits = np.left_shift(kind(1), np.arange(config.num_experts, dtype=kind))
    masks = np.zeros((len(passes), len(layers), tokens), kind)
    for f, one in enumerate(passes):
        for i, layer in enumerate(one.layers):
            masks[f, i] = on_grid((layer.taken * bits).sum(1, dtype=kind), grid, one.scale)

    def logits(name):
        # Values beyond float16 become its largest number.
        values = [np.stack([on_grid(getattr(layer, name), grid, one.scale) for layer in one.layers]) for one in passes]
        return np.clip(np.stack(values), -65504, 65504).astype(np.float16)

    scores = scores and len(layers) > 0
    has_need = scores and layers[0].need is not None
    thresholds = None
    if has_need:
        thresholds = trace_files.one_or_all([np.stack([layer.thresholds for layer in one.layers]) for one in passes])
    return Trace(
        model=config.name,
        experts=config.num_experts,
        grid=grid,
        labels=labels,
        blocks=np.array([layer.block for layer in layers], np.uint32),
        step=np.array([one.step for one in passes], np.uint32),
        time=np.array([one.time for one in passes], np.float32),
        guided=np.array([one.guided for one in passes], bool),
        masks=masks,
        gate=logits("gate") if scores else None,
        need=logits("need") if has_need else None,
        thresholds=thresholds,
        scale=trace_files.scale_of([one.scale for one in passes]),
    )
