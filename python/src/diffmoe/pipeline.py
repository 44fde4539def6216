"""The pipeline: images from a model file, with diffusers' argument names."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import files, schedulers, settings, weights
from .errors import SettingsError, one_of
from .images import preview, to_bytes, to_pil
from .model import Model
from .noise import between, gaussian, step_noise
from .routing import Routing
from .sampling import Run, sample
from .text import Encoded, encode
from .tokenizer import Tokenizer
from .trace import Trace, join, of_run

#: Number of images for which every step is kept, for display in notebooks.
KEPT_IMAGES = 16


@dataclass
class Output:
    """Result of a run; unpacks as ``images, trace = pipe(...)``. Notebooks display it as HTML."""

    images: list = field(repr=False)  #: Pillow images, uint8 arrays ``[h, w, 3]`` or latents, depending on ``output_type``
    trace: Trace  #: which expert took which token
    samples: np.ndarray = field(repr=False)  #: final samples ``[B, C, h, w]``, float32
    frames: np.ndarray = field(repr=False)  #: previews of the first images after each step ``[steps, B, h, w, 3]``, uint8
    seed: int  #: reproduces the images
    settings: dict  #: num_inference_steps, guidance_scale, scheduler

    def __iter__(self):
        return iter((self.images, self.trace))

    def to_html(self) -> str:
        """Self-contained HTML: the images at every step with their routing, capacity and loads."""
        from .view import html

        return html(self.trace, self.frames, {"seed": self.seed, **self.settings})

    def save_html(self, path) -> None:
        """Writes the HTML as a stand-alone page."""
        from .view import page

        Path(path).write_text(page(self.to_html(), self.trace.model), encoding="utf-8")

    def _repr_html_(self) -> str:
        return self.to_html()


class _Recorder:
    """Keeps previews of the first images after each step, and calls the user's callback."""

    def __init__(self, pipe: Pipeline, images: int, callback: Callable | None):
        self.pipe, self.images, self.callback = pipe, images, callback
        self.frames: list[np.ndarray] = []

    def __call__(self, step: int, time: float, z: np.ndarray) -> np.ndarray:
        if self.callback is not None:
            z = (self.callback(self.pipe, step, time, {"latents": z}) or {}).get("latents", z)
        self.frames.append(preview(z[: self.images], self.pipe.config.makes_images))
        return z


class Pipeline:
    """A model with tokenizer and default scheduler; call it to draw images.

    >>> pipe = Pipeline.from_pretrained("eurosat.safetensors")        # doctest: +SKIP
    >>> out = pipe(labels=["Forest", "River"], seed=7)                 # doctest: +SKIP
    >>> out.images[0].save("forest.png"); out.trace.capacity           # doctest: +SKIP
    """

    def __init__(self, model: Model):
        self.model, self.config = model, model.config
        self.scheduler = schedulers.default_of(self.config)  #: used if a call does not give one
        text = self.config.text
        self.tokenizer = Tokenizer(text.tokenizer, text.vocab_size, text.special_tokens) if text else None

    @classmethod
    def from_pretrained(cls, name) -> Pipeline:
        """Loads a model.

        ``name`` is a safetensors file of this project, the index of a sharded one (``….safetensors.index.json``), or a
        folder that contains either, also one of diffusers. For a bare name such as ``"emoji"``, ``emoji.safetensors`` is searched for in the folders
        listed in the environment variable ``DIFFMOE_MODELS`` and in ``assets`` of the working directory and its parents.
        """
        config, tensors = weights.load(files.find(name))
        return cls(Model(config, tensors))

    def __repr__(self) -> str:
        c = self.config
        tables = [f"{table.null} labels of {table.name}" for table in c.labels] + ["prompts"] * (c.text is not None)
        experts = f", {c.num_experts} experts in {len(c.moe_blocks)} of {c.depth} blocks" if c.moe_blocks else ""
        experts += f", a refiner from t = {c.refiner_from:g}" if c.refiner else ""
        return f"<{c.name}: {c.kind}, {c.input_size[0]}×{c.input_size[1]}{experts}; {', '.join(tables)}>"

    def __call__(
        self,
        labels=None,
        prompt=None,
        *,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        cycle_spin: int | tuple[int, float] | None = None,
        num_images_per_prompt: int | None = None,
        num_images: int | None = None,
        seed: int | None = None,
        generator=None,
        variation_seed: int | None = None,
        variation_strength: float = 0.0,
        mix_labels=None,
        mix_strength: float = 0.5,
        latents: np.ndarray | None = None,
        image=None,
        strength: float | None = None,
        mask_image=None,
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

        labels: labels by name or number. One label, a list, or for a model with several label tables a dict such as
            ``{"subject": "fox", "style": ["blob", "noto"]}``. ``"any"`` is the unconditional label; tables without labels
            get ones that the model draws well (``"best"``); ``"varied"`` stands for random ones. ``class_labels`` is an alias.
        prompt, negative_prompt: for text-conditioned models. The default prompts are the model's examples.
        num_inference_steps, guidance_scale, scheduler: default to the model's recommendation. A guidance scale of 1 disables
            guidance. The scheduler is a name (euler, heun, ddpm, ddim, dpmpp_2m, unipc) or an object from
            ``diffmoe.schedulers``.
        guidance_interval: ``(low, high)``; guides only while low <= t < high, with t from 0 (noise) to 1 (data).
        cycle_spin: averages the last predictions of a flow model over so many shifts of the image (1 is off), from t = 0.85 on
            or from ``(count, t)``, which hides the borders of patches. Defaults to the model's recommendation.
        num_images_per_prompt: number of images of each label or prompt, as in diffusers.
        num_images: total number of images instead; labels and prompts are cycled, as on the command line.
        seed: seed of noise and random labels; gives the same images as the Rust program. ``generator`` is diffusers' name.
        variation_seed, variation_strength: mixes the noise with that of another seed, on the arc between both: 0 none of it,
            1 all. Agrees with the Rust program to the last digits of float32.
        mix_labels, mix_strength: a label that is blended into those of all images, for a model with several label tables a
            dict: the label vector becomes ``(1 - mix_strength) * label + mix_strength * other`` before it is added to that of
            the time. 0 is the labels alone, 1 the others alone.
        latents: initial noise ``[images, C, height, width]``, replacing that of the seed.
        image: an image to start from instead of noise alone: a Pillow image, pixels ``[h, w, 3]`` (uint8) or a sample
            ``[C, h, w]`` (float). Pillow images are cut and scaled to the size of the model.
        strength: share of the way from noise to data that is taken from ``image``, above 0 and at most 1; 0.6 by default, and
            1 with a mask.
        mask_image: white (or 1) where ``image`` is redrawn, black (or 0) where it is kept: a Pillow image or ``[h, w]``.
        routing: ``"token"``, or ``"pool"`` for the paper's rule, under which the images of a batch compete.
        gamma, threshold_shift: one threshold for all experts, or a shift of the trained thresholds.
        mute: experts that take no tokens, ``[(block, expert), …]``.
        trace_scores: whether the trace includes the router's scores.
        batch_size: number of images per pass.
        output_type: ``"pil"`` (arrays if Pillow is not installed), ``"np"`` (uint8 arrays) or ``"latent"`` (float32 samples).
        callback_on_step_end: called as ``f(pipe, step, time, {"latents": z})`` after each step; may return a dict with a
            replacement under ``"latents"``.
        """
        config = self.config
        if labels is not None and class_labels is not None:
            raise SettingsError("labels and class_labels are aliases; give only one")
        seed = settings.seed_of(seed, generator)
        seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
        chosen = labels if class_labels is None else class_labels
        rows, prompts = settings.choose(config, chosen, prompt, num_images, num_images_per_prompt, seed)
        if negative_prompt and config.text is None:
            raise SettingsError("this model does not take prompts: remove negative_prompt")
        if output_type not in ("pil", "np", "latent"):
            raise SettingsError(f"output_type must be {one_of(['pil', 'np', 'latent'])}, got {output_type!r}")
        if batch_size < 1:
            raise SettingsError(f"batch_size must be at least 1, got {batch_size}")
        rule = Routing(routing, gamma, threshold_shift, settings.muted(mute))
        rule.check(config)
        steps = config.defaults["steps"] if num_inference_steps is None else num_inference_steps
        scheduler = schedulers.resolve(self.scheduler if scheduler is None else scheduler, config, steps)
        guidance = float(config.defaults["guidance"] if guidance_scale is None else guidance_scale)
        if not 0 <= guidance <= 100:
            raise SettingsError(f"guidance_scale must be 0–100 (1 switches it off), got {guidance}")
        low, high = guidance_interval
        if not 0 <= low < high <= 1:
            raise SettingsError(f"guidance_interval must be (low, high) with 0 <= low < high <= 1, got {guidance_interval}")
        spin = settings.cycle_spin(config, cycle_spin)
        count = len(prompts) if config.text else len(rows[0])
        noise = self._noise(seed, count, latents)
        if not 0 <= variation_strength <= 1 or (variation_strength and variation_seed is None):
            raise SettingsError(f"variation_strength must be 0–1 and needs variation_seed, got {variation_strength}")
        if variation_strength:
            others = self._noise(settings.seed_of(variation_seed, None), count, None)
            noise = np.stack([between(a, b, variation_strength) for a, b in zip(noise, others)])
        others = settings.mixed(config, mix_labels, mix_strength)
        init = settings.init_image(config, image, mask_image, strength)

        named = zip(rows, config.labels, others or [None] * len(rows))
        names = [[settings.label_name(table, i, other, mix_strength) for i in of] for of, table, other in named]
        names += [prompts] if prompts else []
        samples, traces, frames, refiner = [], [], [], self.model.refiner
        for first in range(0, count, batch_size):
            part = slice(first, min(first + batch_size, count))
            negatives = [negative_prompt or ""] * len(prompts[part])
            run = Run(
                self.model,
                [np.array(of[part]) for of in rows],
                self._encode(prompts[part]),
                self._encode(negatives),
                guidance,
                rule,
                self._step_noise(seed, range(count)[part]),
                (low, high),
                spin,
                others,
                mix_strength,
                refiner and (self._encode(prompts[part], refiner), self._encode(negatives, refiner)),
            )
            recorder = _Recorder(self, max(0, KEPT_IMAGES - first), callback_on_step_end)
            samples.append(sample(run, scheduler, steps, noise[part], recorder, **init))
            traces.append(of_run(config, run.passes, [of[part] for of in names], trace_scores))
            frames.append(np.stack(recorder.frames))
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
        """Initial noise; every image has its own stream, independent of batches."""
        shape = self._shape()
        if latents is not None:
            latents = np.asarray(latents, np.float32)
            if latents.shape != (count, *shape):
                raise SettingsError(f"latents must have shape {[count, *shape]}, got {list(latents.shape)}")
            return latents
        return np.stack([gaussian(seed, i, int(np.prod(shape))).reshape(shape) for i in range(count)])

    def _step_noise(self, seed: int, images: range) -> Callable[[int], np.ndarray]:
        shape = self._shape()

        def noise(step):
            return np.stack([step_noise(seed, i, step, int(np.prod(shape))).reshape(shape) for i in images])

        return noise

    def _encode(self, prompts: list[str], model: Model | None = None) -> Encoded | None:
        """Encodes the prompts of a batch, each distinct one once, with the encoder of the model or of its refiner."""
        if self.tokenizer is None:
            return None
        model = self.model if model is None else model
        distinct = list(dict.fromkeys(prompts))
        tokens = [self.tokenizer.encode(prompt, self.config.text.max_length) for prompt in distinct]
        ids, counts = (np.array(part) for part in zip(*tokens))
        encoded = encode(model.config, model.weights, ids, counts)
        return encoded.rows(np.array([distinct.index(prompt) for prompt in prompts]))
