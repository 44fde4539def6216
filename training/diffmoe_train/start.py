"""Start a run from the weights of an exported file (``train.init``).

Only the weights are taken over: optimiser, moving average, step count and
learning rate begin anew, and the thresholds count as set."""

import torch

from .export import described_tokenizer, load_exported, read_description
from .model import ComposedEmbedder


def take_labels(embedder, file_table, values, file_values):
    """Rows are matched by name; a value that the file does not know keeps its
    fresh row.  A composed table gets the file's (folded) rows as its own rows
    and zero shared vectors, which is the same function."""
    row = {v: i for i, v in enumerate(file_values)}
    with torch.no_grad():
        if isinstance(embedder, ComposedEmbedder):
            embedder.embedding_table.weight.copy_(embedder.table())
            embedder.shared.zero_()
        table = embedder.embedding_table.weight
        for i, v in enumerate(values):
            if v in row:
                table[i] = file_table[row[v]]
        table[len(values)] = file_table[len(file_values)]
    return sum(v in row for v in values)


def tokenizer_of_file(path):
    """The tokenizer of the file, or None: its entries are rows of a table, so
    who takes the weights takes it too."""
    return described_tokenizer(read_description(path))


def initialise(model, labels, path):
    """Copy the weights of the file into the model; the sizes must agree.

    Returns the training that the file has behind it: steps, images, hours."""
    source, meta = load_exported(path)
    if ("text" in meta) != bool(model.text_encoder):
        raise ValueError(f"{path} reads {'prompts' if 'text' in meta else 'labels'}, the run does not; see its [text] section")
    files = {l["tensor"]: l["values"] for l in meta["labels"]}
    if set(files) != {l.tensor for l in labels}:
        raise ValueError(f"{path} has the label tables {sorted(files)}, the run {sorted(l.tensor for l in labels)}")
    theirs, mine = source.state_dict(), model.state_dict()
    tables = {l.prefix for l in labels}
    rest = {k for k in mine if k.split(".")[0] not in tables}
    if wrong := [k for k in sorted(rest) if k not in theirs or theirs[k].shape != mine[k].shape]:
        raise ValueError(f"{path} does not fit the [model] section, for example {wrong[0]}: "
                         f"{tuple(theirs[wrong[0]].shape) if wrong[0] in theirs else 'missing'} in the file, "
                         f"{tuple(mine[wrong[0]].shape)} in the run")
    model.load_state_dict({k: theirs[k] for k in rest}, strict=False)
    for l in labels:
        known = take_labels(getattr(model, l.prefix), theirs[l.tensor], l.values, files[l.tensor])
        print(f"started from {path}: it knows {known} of {len(l.values)} {l.name} labels")
    card = meta.get("card", {})
    return {k: card.get(f"train_{k}", 0) for k in ("steps", "images", "hours")}
