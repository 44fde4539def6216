"""Resolves labels, prompts and the number of images: one entry per image."""

from __future__ import annotations

import difflib
import operator

import numpy as np

from .config import Config, LabelTable
from .errors import SettingsError, one_of
from .noise import random_rows


def as_list(value) -> list:
    """A list from an iterable; a list of one from anything else."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)


def row(table: LabelTable, label) -> int:
    """The row of a name or number; ``"any"`` is the null row."""
    if isinstance(label, str) and label.lower() == "any":
        return table.null
    if not isinstance(label, str) and (isinstance(label, bool) or not hasattr(label, "__index__")):
        raise SettingsError(f"{table.name} must be a name or a number, got {label!r}")
    found = table.find(label)
    if found is not None:
        return found
    near = difflib.get_close_matches(str(label), table.values, 5, 0.5) or list(table.values[:8])
    names = f" or a name, such as {one_of(near)}" if near else ""
    raise SettingsError(f"unknown {table.name} {label!r}; give a number from 0 to {table.null - 1}{names}")


def _by_table(config: Config, labels) -> dict[str, list]:
    """Labels by table name. A bare value is for the first table."""
    if labels is None:
        return {}
    known = [table.name for table in config.labels]
    if not known:
        raise SettingsError(f"{config.name} has no label tables; use prompt=")
    if not isinstance(labels, dict):
        labels = {known[0]: labels}
    for name in labels:
        if name not in known:
            raise SettingsError(f"the model has no labels for {name!r}; it has {one_of(known)}")
    return {name: as_list(values) for name, values in labels.items() if values is not None}


def choose(config: Config, labels, prompt, num_images, num_images_per_prompt, seed: int) -> tuple[list[list[int]], list[str]]:
    """Returns the rows of each label table and the prompts, one per image (no prompts for a model without text encoder).

    Labels and prompts are repeated ``num_images_per_prompt`` times each, as in diffusers, or cycled until there are
    ``num_images``, as on the command line. Tables without labels, or with ``"best"``, get rows that the model draws well
    together, drawn from the seed; ``"varied"`` stands for random rows.
    """
    tables = _by_table(config, labels)
    prompts = None if prompt is None else [str(text) for text in as_list(prompt)]
    if prompts is not None and config.text is None:
        raise SettingsError("this model does not take prompts: use labels instead")
    given = [*tables.values(), *([prompts] if prompts is not None else [])]
    if any(not values for values in given):
        raise SettingsError("labels and prompts must not be empty lists")
    if num_images is not None and num_images_per_prompt is not None:
        raise SettingsError("give num_images or num_images_per_prompt, not both")
    distinct = max(map(len, given), default=1)
    repeats = 1 if num_images_per_prompt is None else _count("num_images_per_prompt", num_images_per_prompt)
    count = distinct * repeats if num_images is None else _count("num_images", num_images)
    if num_images is None and any(len(values) not in (1, distinct) for values in given):
        lengths = ", ".join(str(len(values)) for values in given)
        raise SettingsError(f"lists of labels and prompts must have the same length or length 1, got lengths {lengths}")

    def spread(values):
        if num_images is None:
            values = values * (distinct // len(values))
            return [value for value in values for _ in range(repeats)]
        return [values[i % len(values)] for i in range(count)]

    wanted = []
    for table in config.labels:
        given = tables.get(table.name, ["best"])
        if given == ["varied"]:
            wanted.append([])
        else:
            wanted.append(spread([None if label == "best" else row(table, label) for label in given]))
    rows = drawn_rows(config, wanted, seed, count)
    if config.text is None:
        return rows, []
    examples = list(config.text.examples) or [""]
    return rows, spread(prompts) if prompts is not None else [examples[i % len(examples)] for i in range(count)]


def mixed(config: Config, labels, strength: float) -> list[int | None]:
    """The row to blend in for each label table, or ``None`` for no blend; an empty list if ``labels`` is empty."""
    if not 0 <= strength <= 1:
        raise SettingsError(f"mix_strength must be 0 (the labels alone) to 1 (the others alone), got {strength}")
    tables = _by_table(config, labels)
    if any(len(given) != 1 for given in tables.values()):
        raise SettingsError("mix_labels must have one label for a table")
    rows = {table.name: row(table, *tables[table.name]) for table in config.labels if table.name in tables}
    return [rows.get(table.name) for table in config.labels] if rows else []


def label_name(table: LabelTable, label: int, other: int | None, strength: float) -> str:
    """The name of a row, or of a blend of two with their shares."""
    if other is None or other == label or not strength:
        return table.label(label)
    if strength == 1:
        return table.label(other)
    percent = min(max(int(100 * strength + 0.5), 1), 99)
    return f"{100 - percent}% {table.label(label)} + {percent}% {table.label(other)}"


#: Keeps draws from the showcase independent of draws from single tables, which use the table's number.
_PURPOSE = 1 << 16


def drawn_rows(config: Config, wanted: list[list], seed: int, count: int) -> list[list[int]]:
    """The row of each table and image, drawn as in the Rust library.

    ``wanted`` has a list per table: the row of each image, or ``None`` for a row from the showcase. An empty list stands for
    random rows. Rows from the showcase are drawn together: the image gets a combination that contains its chosen rows. Null
    rows and random rows impose nothing. If no combination fits, any is drawn; without a showcase, the rows are random.
    """
    shown, decks = config.defaults.get("showcase") or [], {}

    def random(i, table):
        # A table with only the null row has nothing to choose from.
        return random_rows(seed, i, table.null, count) if table.null else [0] * count

    rows = [
        random(i, table) if not of or (not shown and None in of) else [0] * count
        for i, (of, table) in enumerate(zip(wanted, config.labels))
    ]
    for image in range(count):
        fixed = tuple(
            of[image] if of and of[image] != table.null else None for of, table in zip(wanted, config.labels)
        )
        for i, of in enumerate(wanted):
            if not of:
                continue
            if of[image] is not None:
                rows[i][image] = of[image]
            elif shown:
                if fixed not in decks:
                    deck = [c for c in shown if all(f is None or f == r for f, r in zip(fixed, c))] or shown
                    decks[fixed] = [deck[pick] for pick in random_rows(seed, _PURPOSE, len(deck), count)]
                rows[i][image] = decks[fixed][image][i]
    return rows


def _count(name: str, value) -> int:
    if not hasattr(value, "__index__") or int(value) < 1:
        raise SettingsError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def muted(pairs) -> frozenset[tuple[int, int]]:
    """Muted experts from ``(block, expert)`` pairs."""
    try:
        return frozenset((operator.index(block), operator.index(expert)) for block, expert in pairs)
    except (TypeError, ValueError):
        raise SettingsError(f"mute must be a list of pairs (block, expert), got {pairs!r}") from None


def seed_of(seed, generator) -> int | None:
    """The seed, from ``seed`` or from ``generator``: a number, a ``torch.Generator`` (its initial seed) or a
    ``numpy.random.Generator`` (which draws one)."""
    if seed is not None and generator is not None:
        raise SettingsError("give seed or generator, not both")
    given = seed if generator is None else generator
    if given is None:
        return None
    if hasattr(given, "initial_seed"):
        given = given.initial_seed()
    elif hasattr(given, "integers"):
        given = given.integers(1 << 32)
    if not hasattr(given, "__index__") or not 0 <= int(given) < 1 << 64:
        raise SettingsError(f"seed must be a whole number from 0 to 2⁶⁴ - 1, got {given!r}")
    return int(given)


def cycle_spin(config: Config, given) -> tuple[int, float]:
    """Number of shifts and the time from which on predictions are averaged over them: ``given``, or else the model's."""
    spin, patch = given, config.finest.patch_size
    if spin is None:
        spin = str(config.defaults.get("cycle_spin") or 1).split(",")
        spin = (min(int(spin[0]), patch), *map(float, spin[1:]))
    count, start = (*spin, 0.85)[:2] if isinstance(spin, tuple) else (spin, 0.85)
    if not (isinstance(count, int) and 1 <= count <= 8 and 0 <= start <= 1):
        raise SettingsError(f"cycle_spin must be a whole number from 1 (off) to 8, or (count, from) with from 0–1, got {given}")
    if count > 1 and given is not None and config.objective != "flow":
        raise SettingsError("cycle_spin needs a flow model")
    if count > patch:
        raise SettingsError(f"cycle_spin of {count} needs patches of at least {count} pixels; this model's have {patch}")
    return count, float(start)


def init_image(config: Config, image, mask, strength: float | None) -> dict:
    """The image that a run starts from, its mask and strength, as :func:`diffmoe.sampling.sample` takes them."""
    if image is None:
        if mask is not None or strength is not None:
            raise SettingsError("mask_image and strength need image, the image to start from")
        return {}
    strength = (0.6 if mask is None else 1.0) if strength is None else float(strength)
    if not 0 < strength <= 1:
        raise SettingsError(f"strength must be above 0 (the image as it is) and at most 1 (noise alone), got {strength}")
    shape = (config.in_channels, *config.input_size)
    pixels = _fitted(image, "RGB", config)
    if pixels.dtype == np.uint8:
        if not config.makes_images:
            raise SettingsError(f"{config.name} generates latents: start from a sample {list(shape)}, such as out.samples[0]")
        pixels = pixels.transpose(2, 0, 1) / np.float32(127.5) - 1 if pixels.ndim == 3 else pixels
    if pixels.shape != shape or not np.isfinite(pixels).all():
        raise SettingsError(f"image must be a Pillow image, pixels [h, w, 3] (uint8) or finite numbers {list(shape)}")
    out = {"image": pixels.astype(np.float32), "strength": strength}
    if mask is not None:
        values = _fitted(mask, "L", config)
        values = values / np.float32(255) if values.dtype == np.uint8 else values.astype(np.float32)
        if values.shape != shape[1:] or not ((values >= 0) & (values <= 1)).all():
            raise SettingsError(f"mask_image must be a Pillow image or numbers from 0 to 1 of shape {list(shape[1:])}")
        out["mask"] = values
    return out


def _fitted(image, mode: str, config: Config) -> np.ndarray:
    """An array, or a Pillow image cut and scaled to the size of the model."""
    if not hasattr(image, "convert"):
        return np.asarray(image)
    from PIL import Image, ImageOps

    height, width = config.input_size
    return np.asarray(ImageOps.fit(image.convert(mode), (width, height), Image.Resampling.BILINEAR))
