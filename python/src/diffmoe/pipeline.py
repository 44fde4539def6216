"""Images from a model file, with the names of diffusers' arguments."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import files, schedulers, settings, weights
from .config import Config
from .errors import SettingsError, one_of
from .images import preview, to_bytes, to_pil
from .model import Model
from .noise import gaussian, step_noise
from .routing import Routing
from .sampling import Run, sample
from .text import Encoded, encode
from .tokenizer import Tokenizer
from .trace import Trace, join, of_run

#: Images whose every step is kept for notebooks.
KEPT_IMAGES = 16


@dataclass
class Output:
    """What a run gives. ``images, trace = pipe(...)`` works too. In a notebook it shows itself."""

    images: list = field(repr=False)  #: Pillow images, or uint8 arrays ``[h, w, 3]``, or latents, as ``output_type`` says
    trace: Trace  #: which expert took which token
    samples: np.ndarray = field(repr=False)  #: as the model made them ``[B, C, h, w]``, float32
    frames: np.ndarray = field(repr=False)  #: previews of the first images after each step ``[steps, B, h, w, 3]``, uint8
    seed: int  #: gives the same images again
    settings: dict  #: num_inference_steps, guidance_scale, scheduler

    def __iter__(self):
        return iter((self.images, self.trace))

    def to_html(self) -> str:
        """A self-contained piece of HTML: the images at every step, and the work of the experts on them."""
        from .view import html

        return html(self.trace, self.frames, {"seed": self.seed, **self.settings})

    def save_html(self, path) -> None:
        """Writes a page that opens in a browser, without a network."""
        from .view import page

        Path(path).write_text(page(self.to_html(), self.trace.model), encoding="utf-8")

    def _repr_html_(self) -> str:
        return self.to_html()


class Pipeline:
    """A model with its tokenizer and its scheduler; call it to draw images.

    >>> pipe = Pipeline.from_pretrained("eurosat.safetensors")        # doctest: +SKIP
    >>> out = pipe(labels=["Forest", "River"], seed=7)                 # doctest: +SKIP
    >>> out.images[0].save("forest.png"); out.trace.capacity           # doctest: +SKIP
    """

    def __init__(self, model: Model):
        self.model, self.config = model, model.config
        self.scheduler = schedulers.default_of(self.config)  #: used where a call names none
        text = self.config.text
        self.tokenizer = Tokenizer(text.tokenizer, text.vocab_size, text.special_tokens) if text else None

    @classmethod
    def from_pretrained(cls, name) -> Pipeline:
        """Opens a model.

        ``name``: a safetensors file of this project, the index of one in parts (``….safetensors.index.json``), or a folder
        with either. A bare name such as ``"emoji"`` is looked for as ``emoji.safetensors`` in the folders that the variable
        ``DIFFMOE_MODELS`` lists, and in ``assets`` beside or above the working directory.
        """
        config, tensors = weights.load(files.find(name))
        return cls(Model(config, tensors))

    def __repr__(self) -> str:
        c = self.config
        tables = [f"{table.null} labels of {table.name}" for table in c.labels] + ["prompts"] * (c.text is not None)
        experts = f", {c.num_experts} experts in {len(c.moe_blocks)} of {c.depth} blocks" if c.moe_blocks else ""
        return f"<{c.name}: {c.kind}, {c.input_size[0]}×{c.input_size[1]}{experts}; {', '.join(tables)}>"

    def __call__(
        self,
        labels=None,
        prompt=None,
        *,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int | None = None,
        num_images: int | None = None,
        seed: int | None = None,
        generator=None,
        latents: np.ndarray | None = None,
        scheduler=None,
        routing: str = "token",
        gamma: float | None = None,
        threshold_shift: float = 0.0,
        mute=(),
        trace_scores: bool = False,
        batch_size: int = 16,
        output_type: str = "pil",
        callback_on_step_end: Callable | None = None,
        class_labels=None,
    ) -> Output:
        """Draws images.

        labels: what to draw, by name or number: one, a list, or for a model with several label tables a dict such as
            ``{"subject": "fox", "style": ["blob", "noto"]}``; ``"any"`` leaves it to the model, and a table that is not named
            gets random rows. ``class_labels`` is another name for it.
        prompt, negative_prompt: what to draw in words and what guidance leads away from, for models that read text.
        num_inference_steps, guidance_scale, scheduler: the model's where they are left out. A guidance scale of 1 is none. A
            scheduler is a name (euler, heun, ddpm, ddim, dpmpp_2m, unipc) or an object of ``diffmoe.schedulers``.
        num_images_per_prompt: images of each label or prompt, one after another; ``num_images``: images in all, which take
            labels and prompts in turn, as on the command line.
        seed: a number that gives the same images again, also in the other implementations. ``generator`` is diffusers' name.
        latents: noise to begin with instead of the seed's ``[images, C, height, width]``.
        routing: ``"token"``, or ``"pool"``, the paper's rule, with which images of a batch compete. gamma: one threshold for all
            experts. threshold_shift: added to the trained ones. mute: experts that take no tokens, ``[(block, expert), …]``.
        trace_scores: keeps the router's scores in the trace.
        batch_size: images that share a pass.
        output_type: ``"pil"`` (arrays where Pillow is missing), ``"np"`` (uint8) or ``"latent"`` (samples as they are).
        callback_on_step_end: called as ``f(pipe, step, time, {"latents": z})`` after each step; what it returns under
            ``"latents"`` takes the sample's place.
        """
        config = self.config
        if labels is not None and class_labels is not None:
            raise SettingsError("labels and class_labels are the same; give one of them")
        seed = settings.seed_of(seed, generator)
        seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
        chosen = labels if class_labels is None else class_labels
        rows, prompts = settings.choose(config, chosen, prompt, num_images, num_images_per_prompt, seed)
        if negative_prompt and config.text is None:
            raise SettingsError("this model reads no prompts: leave negative_prompt out")
        if output_type not in ("pil", "np", "latent"):
            raise SettingsError(f"output_type must be {one_of(['pil', 'np', 'latent'])}, got {output_type!r}")
        if not 1 <= batch_size:
            raise SettingsError(f"batch_size must be 1 or more, got {batch_size}")
        muted = frozenset((int(block), int(expert)) for block, expert in mute)
        rule = Routing(routing, gamma, threshold_shift, muted)
        rule.check(config)
        steps = config.defaults["steps"] if num_inference_steps is None else num_inference_steps
        scheduler = schedulers.resolve(self.scheduler if scheduler is None else scheduler, config, steps)
        guidance = float(config.defaults["guidance"] if guidance_scale is None else guidance_scale)
        if not 0 <= guidance <= 100:
            raise SettingsError(f"guidance_scale must be 0–100 (1 switches it off), got {guidance}")
        count = len(prompts) if config.text else len(rows[0])
        noise = self._noise(seed, count, latents)

        names = [[table.label(i) for i in of] for of, table in zip(rows, config.labels)] + ([prompts] if prompts else [])
        samples, traces, frames = [], [], []
        for first in range(0, count, batch_size):
            part = slice(first, min(first + batch_size, count))
            run = Run(
                self.model,
                [np.array(of[part]) for of in rows],
                self._encode(prompts[part]),
                self._encode([negative_prompt or ""] * len(prompts[part])),
                guidance,
                rule,
                self._step_noise(seed, range(count)[part]),
            )
            shown = max(0, min(KEPT_IMAGES - first, part.stop - first))
            kept = []

            def on_step(i, time, z):
                if callback_on_step_end is not None:
                    z = (callback_on_step_end(self, i, time, {"latents": z}) or {}).get("latents", z)
                kept.append(preview(z[:shown], config.makes_images) if shown else None)
                return z

            samples.append(sample(run, scheduler, steps, noise[part], on_step))
            traces.append(of_run(config, run.passes, [of[part] for of in names], trace_scores))
            if shown:
                frames.append(np.stack(kept))
        samples = np.concatenate(samples)
        if output_type == "latent" or not config.makes_images:
            images = list(samples)
        else:
            pixels = to_bytes(samples)
            images = to_pil(pixels) if output_type == "pil" else list(pixels)
        used = {"num_inference_steps": steps, "guidance_scale": guidance, "scheduler": scheduler.name}
        return Output(images, join(traces), samples, np.concatenate(frames, axis=1), seed, used)

    def _shape(self) -> tuple[int, int, int]:
        return (self.config.in_channels, *self.config.input_size)

    def _noise(self, seed: int, count: int, latents) -> np.ndarray:
        """Noise for each image: its own stream of the seed, whatever the batch."""
        shape = self._shape()
        if latents is not None:
            latents = np.asarray(latents, np.float32)
            if latents.shape != (count, *shape):
                raise SettingsError(f"latents need the shape {[count, *shape]}, got {list(latents.shape)}")
            return latents
        return np.stack([gaussian(seed, i, int(np.prod(shape))).reshape(shape) for i in range(count)])

    def _step_noise(self, seed: int, images: range) -> Callable[[int], np.ndarray]:
        shape = self._shape()

        def noise(step):
            return np.stack([step_noise(seed, i, step, int(np.prod(shape))).reshape(shape) for i in images])

        return noise

    def _encode(self, prompts: list[str]) -> Encoded | None:
        """Prompts of a batch; equal ones are encoded once."""
        if self.tokenizer is None:
            return None
        distinct = list(dict.fromkeys(prompts))
        tokens = [self.tokenizer.encode(prompt, self.config.text.max_length) for prompt in distinct]
        ids, counts = (np.array(part) for part in zip(*tokens))
        encoded = encode(self.config, self.model.weights, ids, counts)
        return encoded.rows(np.array([distinct.index(prompt) for prompt in prompts]))
