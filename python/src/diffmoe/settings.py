"""What a caller asks for, one entry for each image: rows of the label tables and prompts."""

from __future__ import annotations

import difflib

from .config import Config, LabelTable
from .errors import SettingsError, one_of
from .noise import random_rows


def as_list(value) -> list:
    """A single value as a list of one; anything that can be walked through as a list."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)


def row(table: LabelTable, label) -> int:
    """The row of a name or number; ``"any"`` is the null row, with which the model draws what it likes."""
    if isinstance(label, str) and label.lower() == "any":
        return table.null
    if not isinstance(label, str) and (isinstance(label, bool) or not hasattr(label, "__index__")):
        raise SettingsError(f"a {table.name} is a name or a number, got {label!r}")
    found = table.find(label)
    if found is not None:
        return found
    near = difflib.get_close_matches(str(label), table.values, 5, 0.5) or list(table.values[:8])
    names = f" or a name, such as {one_of(near)}" if near else ""
    raise SettingsError(f"there is no {table.name} {label!r}; give a number from 0 to {table.null - 1}{names}")


def _by_table(config: Config, labels) -> dict[str, list]:
    """Labels by the name of their table; only a model with one table may leave the name out."""
    if labels is None:
        return {}
    known = [table.name for table in config.labels]
    if not known:
        raise SettingsError(f"{config.name} has no label tables; say what to draw with prompt=")
    if not isinstance(labels, dict):
        labels = {known[0]: labels}
    for name in labels:
        if name not in known:
            raise SettingsError(f"the model has no labels for {name!r}; it has {one_of(known)}")
    return {name: as_list(values) for name, values in labels.items() if values is not None}


def choose(config: Config, labels, prompt, num_images, num_images_per_prompt, seed: int) -> tuple[list[list[int]], list[str]]:
    """For each label table one row for each image, and one prompt for each image (none for a model without text).

    Given labels and prompts are repeated ``num_images_per_prompt`` times each, as in diffusers; ``num_images`` takes them in
    turn instead, as the command line does. A table that nobody names gets random rows of the seed.
    """
    tables = _by_table(config, labels)
    prompts = None if prompt is None else [str(text) for text in as_list(prompt)]
    if prompts is not None and config.text is None:
        raise SettingsError("this model reads no prompts: choose its labels instead")
    given = [*tables.values(), *([prompts] if prompts is not None else [])]
    if any(not values for values in given):
        raise SettingsError("labels and prompts need at least one entry, got an empty list")
    if num_images is not None and num_images_per_prompt is not None:
        raise SettingsError("give num_images or num_images_per_prompt, not both")
    distinct = max(map(len, given), default=1)
    repeats = 1 if num_images_per_prompt is None else _count("num_images_per_prompt", num_images_per_prompt)
    count = distinct * repeats if num_images is None else _count("num_images", num_images)
    if num_images is None and any(len(values) not in (1, distinct) for values in given):
        lengths = one_of(len(values) for values in given)
        raise SettingsError(f"labels and prompts are lists of {lengths} entries; give as many of each, or one")

    def spread(values):
        if num_images is None:
            values = values * (distinct // len(values))
            return [value for value in values for _ in range(repeats)]
        return [values[i % len(values)] for i in range(count)]

    rows = []
    for i, table in enumerate(config.labels):
        if table.name in tables:
            rows.append(spread([row(table, label) for label in tables[table.name]]))
        else:
            # A table of the null row alone has nothing to choose from.
            rows.append(random_rows(seed, i, table.null, count) if table.null else [0] * count)
    if config.text is None:
        return rows, []
    examples = list(config.text.examples) or [""]
    return rows, spread(prompts) if prompts is not None else [examples[i % len(examples)] for i in range(count)]


def _count(name: str, value) -> int:
    if not hasattr(value, "__index__") or int(value) < 1:
        raise SettingsError(f"{name} must be a whole number of 1 or more, got {value!r}")
    return int(value)


def seed_of(seed, generator) -> int | None:
    """A seed from diffusers' ``generator``: a number, or an object that tells its seed (``torch.Generator``) or draws one
    (``numpy.random.Generator``)."""
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
        raise SettingsError(f"a seed is a whole number from 0 to 2⁶⁴ - 1, got {given!r}; images differ by their own noise")
    return int(given)
