"""Sampling of one batch: evaluations of the model for a scheduler, and the routing of every pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .config import Config
from .model import LayerRouting, Model
from .routing import Routing
from .text import Encoded


@dataclass
class Pass:
    """One forward pass."""

    step: int
    time: float
    guided: bool  #: whether the pass was conditional
    layers: list[LayerRouting]
    scale: int = 1  #: patches of the finest grid along the side of a token; above 1 before the refiner takes over


class _Stage:
    """A model with the labels and prompts of a batch, conditional (``True``) and unconditional."""

    def __init__(self, model: Model, labels: list[np.ndarray], texts, mix: list[int | None], mix_strength: float):
        nulls = [np.full_like(rows, table.null) for rows, table in zip(labels, model.config.labels)]
        if mix_strength and any(other is not None for other in mix):
            tables = [model.weights[table.tensor] for table in model.config.labels]
            nulls = [table[rows] for table, rows in zip(tables, nulls)]
            labels = [_blended(*of, mix_strength) for of in zip(tables, labels, mix)]
        self.model, (text, null_text) = model, texts
        self.conditions = {True: (labels, text), False: (nulls, null_text)}


class Evaluations:
    """What a scheduler asks of a run: outputs of the model, with guidance and cycle spinning. Subclasses evaluate a model in
    ``forward(z, time, guided)`` and ``joint(z, time)``: :class:`Run` that of this package, ``diffmoe.train`` its own."""

    def __init__(
        self,
        config: Config,
        guidance: float = 1.0,
        step_noise: Callable[[int], np.ndarray] | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
        cycle_spin: tuple[int, float] = (1, 0.0),
    ):
        """``step_noise(step)``: noise ``[B, C, height, width]`` for DDPM and DDIM. ``interval``: where guidance applies.
        ``cycle_spin``: number of shifts over which predictions are averaged, and from which time on."""
        self.config, self.guidance, self.step_noise = config, float(guidance), step_noise
        self.interval, self.cycle_spin = interval, cycle_spin
        self.step = 0
        self.passes: list[Pass] = []

    def begin_step(self, step: int) -> None:
        """Begins a step."""
        self.step = step

    def is_guided(self, time: float) -> bool:
        """Whether guidance applies: its scale is not 1, and the time is inside the interval."""
        t = np.float32(time) if self.config.objective == "flow" else np.float32(1) - np.float32(time) / np.float32(999)
        return self.guidance != 1 and is_inside(t, self.interval)

    def guided(self, z: np.ndarray, time: float) -> np.ndarray:
        """The guided output; of a flow model, where cycle spinning asks for it, the mean over circular shifts of ``z`` along
        the diagonal of a patch (the refiner's, if there is one), shifted back. Only the passes without a shift are noted."""
        total = self._guided(z, time)
        count, start = self.cycle_spin
        if self.config.objective != "flow" or count == 1 or np.float32(time) < np.float32(start):
            return total
        noted = len(self.passes)
        for by in shifts(count, self.config.finest.patch_size)[1:]:
            turned = self._guided(np.roll(z, (by, by), (2, 3)), time)
            total = total + np.roll(turned, (-by, -by), (2, 3))
        del self.passes[noted:]
        return total / np.float32(count)

    def _guided(self, z: np.ndarray, time: float) -> np.ndarray:
        """The guided output: two passes with separate token pools, or one where guidance does not apply."""
        channels = self.config.in_channels
        answer = self.forward(z, time)[:, :channels]
        if not self.is_guided(time):
            return answer
        null = self.forward(z, time, guided=False)[:, :channels]
        return np.float32(1 - self.guidance) * null + np.float32(self.guidance) * answer


class Run(Evaluations):
    """The model with labels, prompts and guidance of a batch. A refiner computes the steps whose first pass is at its time or
    later."""

    def __init__(
        self,
        model: Model,
        labels: list[np.ndarray],
        text: Encoded | None = None,
        null_text: Encoded | None = None,
        guidance: float = 1.0,
        routing: Routing = Routing(),
        step_noise: Callable[[int], np.ndarray] | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
        cycle_spin: tuple[int, float] = (1, 0.0),
        mix: list[int | None] = (),
        mix_strength: float = 0.0,
        refiner_texts: tuple[Encoded, Encoded] | None = None,
    ):
        """``labels``: rows ``[B]`` of each label table. ``text``, ``null_text``: prompts and negative prompts. ``mix``: for
        each label table the row that is blended into those of the conditional passes, or ``None``; a label vector is
        ``(1 - mix_strength) * row + mix_strength * other``. ``refiner_texts``: prompts and negative prompts as the refiner's
        encoder reads them. The others: as for :class:`Evaluations`."""
        super().__init__(model.config, guidance, step_noise, interval, cycle_spin)
        self.model, self.routing = model, routing
        self._base = _Stage(model, labels, (text, null_text), mix, mix_strength)
        self._refiner = model.refiner and _Stage(model.refiner, labels, refiner_texts or (None, None), mix, mix_strength)
        self._stage: _Stage | None = None  # of the step, known from its first pass on

    def begin_step(self, step: int) -> None:
        """Begins a step: the time of its first pass decides which model computes all of them."""
        super().begin_step(step)
        self._stage = None

    def forward(self, z: np.ndarray, time: float, guided: bool = True) -> np.ndarray:
        """Evaluates the model, conditional (``guided``) or unconditional."""
        if self._stage is None:
            self._stage = self._refiner if self.config.is_refined(time) else self._base
        model, (labels, text) = self._stage.model, self._stage.conditions[guided]
        times = np.full(len(z), time, np.float32)
        out, layers = model.forward(z, times, labels, text, self.routing)
        scale = model.config.patch_size // self.config.finest.patch_size
        self.passes.append(Pass(self.step, float(time), guided, layers, scale))
        return out

    def joint(self, z: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Conditional and unconditional outputs from one pass with a shared token pool, as in the official DDPM code."""
        (labels, text), (nulls, null_text) = self._base.conditions[True], self._base.conditions[False]
        both = [np.concatenate(pair) for pair in zip(labels, nulls)]
        prompts = None
        if text is not None:
            prompts = Encoded(
                np.concatenate([text.bias, null_text.bias]),
                np.concatenate([text.states, null_text.states]),
                np.concatenate([text.pooled, null_text.pooled]),
                [np.concatenate(pair) for pair in zip(text.memory, null_text.memory)],
            )
        times = np.full(2 * len(z), time, np.float32)
        out, layers = self.model.forward(np.concatenate([z, z]), times, both, prompts, self.routing)
        for half, guided in enumerate((True, False)):
            halves = [_half(layer, half) for layer in layers]
            self.passes.append(Pass(self.step, float(time), guided, halves))
        return out[: len(z)], out[len(z) :]


def _blended(table: np.ndarray, rows: np.ndarray, other: int | None, strength: float) -> np.ndarray:
    """Label vectors ``[B, D]``; those of ``rows`` and ``other`` as they are where nothing is blended, or all of it."""
    if other is None:
        return table[rows]
    share = np.float32(strength)
    vectors = (np.float32(1) - share) * table[rows] + share * table[other]
    vectors = table[np.full_like(rows, other)] if share == 1 else vectors
    return np.where((rows == other)[:, None], table[rows], vectors)


def is_inside(t: float, interval: tuple[float, float]) -> bool:
    """Whether ``low <= t < high``, where t is 0 for noise and 1 for data; at t = 1 if ``high`` is 1. In float32, as in the
    Rust program."""
    t, low, high = map(np.float32, (t, *interval))
    return bool(low <= t < high or (t >= 1 and high >= 1))


def shifts(count: int, patch: int) -> list[int]:
    """The shifts of cycle spinning, in pixels down and right: spread along the diagonal of a patch, the first is zero."""
    return [i * patch // count for i in range(count)]


def steps_taken(steps: int, strength: float) -> int:
    """How many of ``steps`` a run from an image takes: their share ``strength``, rounded down, at least one."""
    return min(max(int(steps * strength * (1 + 1e-6)), 1), steps)


def _half(layer: LayerRouting, half: int) -> LayerRouting:
    def part(x):
        return None if x is None else np.split(x, 2)[half]

    return LayerRouting(layer.block, part(layer.taken), part(layer.gate), part(layer.need), layer.thresholds)


def sample(
    run: Run,
    scheduler,
    steps: int,
    noise: np.ndarray,
    on_step: Callable | None = None,
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    strength: float = 1.0,
) -> np.ndarray:
    """Runs all steps, or the last ones from an image ``[C, height, width]`` with noise. Where ``mask`` (``[height, width]``)
    is 0 the sample becomes the image with the noise of that time after each step. ``on_step(i, time, z)`` is called after
    each and may return a replacement for ``z``."""
    stepper = scheduler.begin(run, steps)
    skipped = 0 if image is None else steps - steps_taken(steps, strength)

    def noised(i):
        signal, noisy = map(np.float32, stepper.level(i))
        return signal * image + noisy * noise

    z = noised(skipped) if skipped else noise
    for i in range(skipped, steps):
        run.begin_step(i - skipped)
        first = len(run.passes)
        z = stepper.step(i, z).astype(np.float32, copy=False)
        if mask is not None:
            z = mask * z + (1 - mask) * noised(i + 1)
        if not np.isfinite(z).all():
            raise FloatingPointError(f"step {i} gave NaN or infinite values; lower the guidance scale or use more steps")
        if on_step is not None:
            changed = on_step(run.step, run.passes[first].time, z)
            z = z if changed is None else changed
    return z
