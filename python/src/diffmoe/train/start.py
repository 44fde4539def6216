"""Start a run from the weights of an exported file (``train.init``).

Only the weights are copied: optimiser, moving average, step count and learning
rate start fresh, and the thresholds count as set.

A text-conditioned model can start from a label-conditioned one: before the run its
text encoder is trained to map a prompt to the sum of the file's label vectors for
that subject and style (``teach``).  The rest of the network then works as before,
and cross-attention starts at zero.  A text-conditioned model can be taught new
sentences the same way: the target is its own output for the simplest sentence with
the same meaning."""

import contextlib
import time

import torch

from . import prompts
from .exported import load_exported, read_description
from .model import ComposedEmbedder


def take_labels(embedder, file_table, values, file_values):
    """Rows are matched by name; a value that is not in the file keeps its
    initial row.  A composed table gets the file's (folded) rows as its own rows
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
    """The ``tokenizer.json`` of the file, or None.  Its ids are rows of the token embedding,
    so weights and tokenizer belong together."""
    return read_description(path).get("text", {}).get("tokenizer")


@torch.no_grad()
def look_coarsely(model, source):
    """Patches of the run are embedded as the file embeds them at its resolution."""
    times = model.patch_size // source.patch_size
    if times * source.patch_size != model.patch_size:
        raise ValueError(f"patches of {model.patch_size} pixels are not a multiple of the file's {source.patch_size}")
    w = source.x_embedder.proj.weight.repeat_interleave(times, 2).repeat_interleave(times, 3) / times**2
    model.x_embedder.proj.weight.copy_(w)
    model.x_embedder.proj.bias.copy_(source.x_embedder.proj.bias)


@torch.no_grad()
def look_finely(model, source):
    """Patches of the run, smaller than the file's in images of the same size, are read as the file reads the same patch
    enlarged, and answered by the averages of its answer."""
    times, p, c = source.patch_size // model.patch_size, model.patch_size, model.out_channels
    if times * model.patch_size != source.patch_size:
        raise ValueError(f"the file's patches of {source.patch_size} pixels are not a multiple of {model.patch_size}")
    w = source.x_embedder.proj.weight
    model.x_embedder.proj.weight.copy_(w.view(len(w), -1, p, times, p, times).sum((3, 5)))
    model.x_embedder.proj.bias.copy_(source.x_embedder.proj.bias)
    for name in ("weight", "bias"):
        w = getattr(source.final_layer.linear, name)
        small = w.view(p, times, p, times, c, -1).mean((1, 3)).reshape(p * p * c, -1)
        getattr(model.final_layer.linear, name).copy_(small if name == "weight" else small[:, 0])
    model.final_layer.adaLN_modulation.load_state_dict(source.final_layer.adaLN_modulation.state_dict())


def shapes(module):
    return [p.shape for p in module.parameters()]


def take_all_but(model, source, apart, path):
    """Copy all tensors whose names contain no part in ``apart`` (a first part, or one such as
    cross_attn); their names and shapes must agree.  Positions are not learned, so the run may use another
    resolution with the same patch size, larger patches with the same number of tokens, or smaller patches
    at the same resolution."""
    if source.patch_size != model.patch_size and source.grid == model.grid:
        apart = apart | {"x_embedder", "final_layer"}
        look_coarsely(model, source)
        print(f"{path} has patches of {source.patch_size} pixels, the run of {model.patch_size}: patches are embedded as their "
              "averages and the last layer starts fresh")
    elif (source.patch_size > model.patch_size and source.grid * source.patch_size == model.grid * model.patch_size
          and source.prediction == model.prediction):
        apart = apart | {"x_embedder", "final_layer"}
        look_finely(model, source)
        print(f"{path} has patches of {source.patch_size} pixels, the run of {model.patch_size}: it starts from their averages")
    elif source.prediction != model.prediction:
        apart = apart | {"final_layer"}
        print(f"{path} predicts {source.prediction}, the run {model.prediction}: the last layer starts fresh")
    if source.grid != model.grid:
        apart = apart | {"pos_embed"}
        print(f"{path} has {source.grid}x{source.grid} tokens, the run {model.grid}x{model.grid}: positions are "
              "computed for the run")
    if model.detail_head and not source.detail_head:
        apart = apart | {"detail_head"}
        print(f"{path} has no detail head: it starts with no effect")
    elif model.detail_head and shapes(model.detail_head) != shapes(source.detail_head):
        apart = apart | {"detail_head"}
        model.detail_head.take(source.detail_head)
        print(f"{path} has a smaller detail head: its additions start with no effect")
    theirs, mine = ({k: v for k, v in m.state_dict().items() if not apart & set(k.split("."))} for m in (source, model))
    shape = lambda state, k: tuple(state[k].shape) if k in state else "missing"
    if wrong := [k for k in sorted({*mine, *theirs}) if shape(mine, k) != shape(theirs, k)]:
        raise ValueError(f"{path} does not fit the [model] section, for example {wrong[0]}: "
                         f"{shape(theirs, wrong[0])} in the file, {shape(mine, wrong[0])} in the run")
    model.load_state_dict(theirs, strict=False)


def label_vectors(source, meta, dataset):
    """Rows of the file's subject and style tables in the data's order, the null row last."""
    out = []
    for l in dataset.labels:
        entry = next((e for e in meta["labels"] if e["tensor"] == l.tensor), None)
        if entry is None:
            raise ValueError(f"the file has no label table {l.tensor}, which is needed as the target for prompts")
        if unknown := [v for v in l.values if v not in entry["values"]]:
            raise ValueError(f"the file has no {l.name} {unknown[0]!r}; leave it out of the data")
        rows = [entry["values"].index(v) for v in l.values] + [entry["null"]]
        out.append(source.state_dict()[l.tensor][rows])
    return out


def answers_of_labels(source, meta, dataset):
    """Targets for the text encoder, the sum of the rows of subject and style, and their variance."""
    subjects, styles = label_vectors(source, meta, dataset)
    return (lambda asked: torch.stack([subjects[s] + styles[t] for s, t in asked]),
            (subjects[:-1].var(0).mean() + styles[:-1].var(0).mean()).item())


@torch.no_grad()
def answers_of_prompts(source, dataset, batch=256):
    """The same for a text-conditioned model: its output for the simplest sentence."""
    prompter = dataset.prompter
    nobody = len(prompter.subjects), len(prompter.styles)
    rows = [(s, t) for s in range(nobody[0] + 1) for t in range(nobody[1] + 1)]
    said = [plainest(prompter, *(None if i == n else i for i, n in zip(row, nobody))) for row in rows]
    vectors = torch.cat([source.text_pool(source.text_encoder(prompter.encode(said[i : i + batch]))[0][:, 0])
                         for i in range(0, len(said), batch)])
    table = vectors.reshape(nobody[0] + 1, nobody[1] + 1, -1)
    return lambda asked: torch.stack([table[s, t] for s, t in asked]), vectors.var(0).mean().item()


def plainest(prompter, subject, style):
    """The first template that names the subject, the style, both, or (empty) neither."""
    if subject is None and style is None:
        return ""
    kind = prompts.STYLE_ONLY if subject is None else prompts.SUBJECT_ONLY if style is None else prompts.SENTENCES
    name = prompter.subjects[subject or 0]
    return prompts.fill(kind[0], name, "" if style is None else prompts.STYLE_PHRASES[prompter.styles[style]][0])


class Teacher:
    """Batches of prompts without images.  answers: targets of the text encoder for a list of (subject, style), with -1
    where a sentence names none; ``variance``: of the targets."""

    def __init__(self, prompter, answers, variance, batch=128, seed=0):
        self.prompter, self.answers, self.variance, self.batch = prompter, answers, variance, batch
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, model):
        """Mean squared error of the text encoder on new sentences, relative to the variance. One sentence in eight is empty."""
        g, empty = self.generator, self.batch // 8
        of = (self.prompter.subjects, self.prompter.styles)
        pairs = zip(*(torch.randint(len(v), (self.batch - empty,), generator=g).tolist() for v in of))
        said = [self.prompter.said(*p, g) for p in pairs] + [("", None, None)] * empty
        device = next(model.text_pool.parameters()).device
        states, _ = model.text_encoder(self.prompter.encode([q[0] for q in said]).to(device))
        target = self.answers([tuple(-1 if i is None else i for i in q[1:]) for q in said]).to(device)
        return (model.text_pool(states[:, 0]).float() - target).square().mean() / self.variance


def teacher(source, meta, dataset, **more):
    """The teacher of a text-conditioned run that starts from this file."""
    answers = answers_of_prompts(source, dataset) if "text" in meta else answers_of_labels(source, meta, dataset)
    return Teacher(dataset.prompter, *answers, **more)


def teach(model, lessons, steps, autocast=contextlib.nullcontext(), lr=1e-3):
    """Train the text encoder to give the same output for all sentences with the same meaning.  Returns the final mean
    squared error relative to the variance of the targets."""
    learned = [*model.text_encoder.parameters(), *model.text_pool.parameters()]
    opt = torch.optim.AdamW(learned, lr=lr, weight_decay=0.0)
    error, start = float("nan"), time.time()
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = lr * min((step + 1) / 50, 2 * (1 - step / steps), 1)
        with autocast:
            loss = lessons.loss(model)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        opt.step()
        error = loss.item() if step == 0 else 0.98 * error + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"teaching the text encoder: step {step} of {steps}, error {error:.3f}, "
                  f"{time.time() - start:.0f} s", flush=True)
    return error


def initialise(model, dataset, path, teach_steps=1000, autocast=contextlib.nullcontext()):
    """Copy the weights of the file into the model; the sizes must agree.

    Returns the training already done on the file: steps, images, hours."""
    if "refiner" in read_description(path):
        raise ValueError(f"{path} has a refiner; a run starts from one model: give one of the files that it was made of")
    source, meta = load_exported(path)
    labels = dataset.tables
    if model.text_encoder and "text" not in meta:
        tables = {l["tensor"].split(".")[0] for l in meta["labels"]}
        take_all_but(model, source, {"text_encoder", "text_pool", "cross_attn", *tables}, path)
        error = teach(model, teacher(source, meta, dataset), teach_steps, autocast)
        print(f"started from {path} (label-conditioned): the text encoder predicts its label vectors "
              f"with an error of {error:.3f} of their variance")
    elif not model.text_encoder and "text" in meta:
        raise ValueError(f"{path} is text-conditioned, but the config has no [text] section")
    else:
        files = {l["tensor"]: l["values"] for l in meta["labels"]}
        if set(files) != {l.tensor for l in labels}:
            raise ValueError(f"{path} has the label tables {sorted(files)}, the run {sorted(l.tensor for l in labels)}")
        take_all_but(model, source, {l.prefix for l in labels}, path)
        for l in labels:
            known = take_labels(getattr(model, l.prefix), source.state_dict()[l.tensor], l.values, files[l.tensor])
            print(f"started from {path}: it has {known} of {len(l.values)} {l.name} labels")
        if model.text_encoder and teach_steps:
            teach(model, teacher(source, meta, dataset), teach_steps, autocast, lr=3e-4)
    card = meta.get("card", {})
    return {k: card.get(f"train_{k}", 0) for k in ("steps", "images", "hours")}
