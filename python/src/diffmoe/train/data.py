"""Images (or latents) with their label columns: small sets as tensors in memory,
folders read on demand."""

import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from ..config import TABLE
from . import prompts


@dataclass
class Labels:
    """One label column: its tensor prefix, its values, and optionally the words of
    its names and groups, whose vectors its embedding shares in training."""

    name: str
    prefix: str
    values: list
    mix: torch.Tensor | None = None
    groups: list = field(default_factory=list)

    @property
    def tensor(self):
        return self.prefix + TABLE


@dataclass
class Dataset:
    images: torch.Tensor  # uint8 [N, 3, s, s]
    columns: list  # int64 [N] each
    labels: list  # Labels each
    augment: str = "none"
    held_out: int = 0  # images kept out of training
    prompter: prompts.Prompter | None = None  # with prompts instead of labels: draws them from the two columns

    @property
    def tables(self):
        """The label columns that the model embeds."""
        return [] if self.prompter else self.labels

    @property
    def nulls(self):
        """Replacements for dropped conditions, in the order of ``batch``."""
        return [self.prompter.null] if self.prompter else [len(l.values) for l in self.labels]

    def __len__(self):
        return len(self.images)

    def batch(self, index, device="cpu", generator=None):
        """(images, conditions): rows of the label tables, or the token ids of
        a new prompt for each image."""
        x = self._augment(self.images[index].to(device).float() / 127.5 - 1, generator)
        columns = [c[index] for c in self.columns]
        if self.prompter:
            columns = [self.prompter.draw(*columns, generator)]
        return x, [c.to(device) for c in columns]

    def _augment(self, x, generator):
        if self.augment == "none":
            return x
        bits = torch.randint(0, 8, (x.shape[0],), generator=generator).to(x.device)
        flip = lambda x, on, f: torch.where(on.bool()[:, None, None, None], f(x), x)
        x = flip(x, bits & 1, lambda x: x.flip(3))
        if self.augment == "dihedral":
            x = flip(x, bits & 2, lambda x: x.flip(2))
            x = flip(x, bits & 4, lambda x: x.transpose(2, 3))
        return x


def shrink(images, size):
    """Box average of uint8 [N, h, w, 3] down to size, as [N, 3, size, size]."""
    n, h = images.shape[:2]
    f = h // size
    if f * size != h:
        raise ValueError(f"{h} is not a multiple of {size}")
    x = images.reshape(n, size, f, size, f, 3).astype(np.float32).mean((2, 4))
    return torch.from_numpy((x + 0.5).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def load_jpeg(path, size, split="train", augment="none"):
    """`{split}_jpeg` (all files concatenated), `{split}_offset` [n+1], `{split}_label`, `classes`."""
    z = np.load(path)
    blob, off = z[f"{split}_jpeg"].tobytes(), z[f"{split}_offset"]
    out = []
    for lo in range(0, len(off) - 1, 1024):
        part = [np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB"))
                for a, b in zip(off[lo : lo + 1024], off[lo + 1 : lo + 1025])]
        out.append(shrink(np.stack(part), size))
    y = torch.from_numpy(z[f"{split}_label"].astype(np.int64))
    labels = Labels("class", "y_embedder", [str(c) for c in z["classes"]])
    return Dataset(torch.cat(out), [y], [labels], augment)


STYLES = list(prompts.STYLE_PHRASES)


def words(name):
    return [w for w in re.split(r"[^a-z]+", name.lower()) if w]


def mixing(values, groups):
    """[n + 1, words + groups]: mean of the name's word vectors plus the group's.
    The null row (last) is zero."""
    vocabulary = sorted({w for v in values for w in words(v)})
    kinds = sorted(set(groups))
    m = torch.zeros(len(values) + 1, len(vocabulary) + len(kinds))
    for i, (v, g) in enumerate(zip(values, groups)):
        ws = words(v)
        for w in ws:
            m[i, vocabulary.index(w)] += 1 / len(ws)
        m[i, len(vocabulary) + kinds.index(g)] = 1
    return m


def load_emoji(path, labels_path, size, subjects, min_styles=6, augment="none", held_out=False, without_groups=(),
               and_groups=(), without=()):
    """Subject x style.  Pairs marked held_out are left out (or, with
    ``held_out=True``, are all that is returned)."""
    records = json.load(open(labels_path, encoding="utf-8"))
    names = {}
    for r in records:
        names.setdefault(r["name"], []).append(r)
    if missing := [s for s in subjects if s not in names]:
        raise ValueError(f"unknown subjects: {missing}")
    more = [s for s in names if s not in set(subjects) and names[s][0]["group"] in and_groups]
    chosen = [s for s in ([*subjects, *more] or names) if len(names[s]) >= min_styles
              and names[s][0]["group"] not in without_groups and s not in without]
    groups = [names[s][0]["group"] for s in chosen]
    row = {s: i for i, s in enumerate(chosen)}
    pick = [i for i, r in enumerate(records) if r["name"] in row and r["held_out"] == held_out]
    out = sum(r["name"] in row and r["held_out"] != held_out for r in records)
    images = shrink(np.load(path)["images"][pick], size)
    y = torch.tensor([row[records[i]["name"]] for i in pick], dtype=torch.long)
    s = torch.tensor([STYLES.index(records[i]["style"]) for i in pick], dtype=torch.long)
    labels = [Labels("subject", "y_embedder", chosen, mixing(chosen, groups), groups),
              Labels("style", "style_embedder", STYLES)]
    return Dataset(images, [y, s], labels, augment, out)


def classes_below(folder, endings):
    """(paths, label column, [Labels]) of a folder with one folder per class, in order of names."""
    names = sorted(d for d in os.listdir(folder) if os.path.isdir(os.path.join(folder, d)))
    files = [(os.path.join(folder, name, f), i) for i, name in enumerate(names)
             for f in sorted(os.listdir(os.path.join(folder, name))) if f.lower().endswith(endings)]
    if not files:
        raise ValueError(f"{folder} has no {' or '.join(endings)} files in folders named after their classes")
    paths, column = zip(*files)
    return list(paths), torch.tensor(column), [Labels("class", "y_embedder", names)]


def adm_crop(image, size):
    """Halved by boxes while both sides allow it, then bicubic to the shorter side, and the centre of that (as in ADM)."""
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), Image.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), Image.BICUBIC)
    a = np.asarray(image.convert("RGB"))
    y, x = (a.shape[0] - size) // 2, (a.shape[1] - size) // 2
    return a[y : y + size, x : x + size]


@dataclass
class Files(Dataset):
    """Files read on demand: images, or cached moments of a VAE encoder."""

    paths: list = field(default_factory=list)
    read_one: object = None

    def __len__(self):
        return len(self.paths)

    def batch(self, index, device="cpu", generator=None):
        chosen = [self.paths[i] for i in index.tolist()]
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(self.read_one, chosen))
        x = self.finish(torch.stack(parts), generator).to(device)
        return x, [c[index].to(device) for c in self.columns]


class ImageFiles(Files):
    def finish(self, x, generator):
        return self._augment(x.float() / 127.5 - 1, generator)


class LatentFiles(Files):
    scaling_factor = 0.18215

    def finish(self, moments, generator):
        """moments [N, 2, 2 C, h, w]: of the image and its mirror image.  Samples one of
        the two: mean + std * noise, times the scaling factor."""
        n = len(moments)
        mirrored = torch.randint(0, 2, (n,), generator=generator)
        mean, logvar = moments[torch.arange(n), mirrored].chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator)
        return (mean + (0.5 * logvar.clamp(-30, 20)).exp() * noise) * self.scaling_factor


def load_folder(path, size, augment):
    paths, column, labels = classes_below(path, (".png", ".jpg", ".jpeg", ".webp"))

    def read(file):
        with Image.open(file) as image:
            return torch.from_numpy(adm_crop(image, size).copy()).permute(2, 0, 1)

    return ImageFiles(torch.empty(0), [column], labels, augment, paths=paths, read_one=read)


def load_latents(path, size, scaling_factor):
    """Files .npz with ``moments`` [2 C, h, w] (mean and log variance of the encoder, not scaled), and
    ``moments_flip`` of the mirrored image (may be missing)."""
    paths, column, labels = classes_below(path, (".npz",))

    def read(file):
        with np.load(file) as z:
            both = np.stack([z["moments"], z["moments_flip"] if "moments_flip" in z else z["moments"]])
        if both.shape[-1] != size:
            raise ValueError(f"{file} has latents of {both.shape[-1]} cells per side, but data.image_size is {size}")
        return torch.from_numpy(both.astype(np.float32))

    out = LatentFiles(torch.empty(0), [column], labels, paths=paths, read_one=read)
    out.scaling_factor = scaling_factor
    return out


def load_for(config, root, split="train", tokenizer=None):
    """The data of a run: images with labels or, with a [text] section, with
    prompts; ``tokenizer`` is their ``tokenizer.json``, by default one made of the names and styles."""
    dataset, t = load(config.data, root, split), config.text
    if t.hidden_size:
        if config.data.kind != "emoji":
            raise ValueError("prompts are composed of subjects and styles, which only data.kind = 'emoji' has")
        names, styles = (l.values for l in dataset.labels)
        if tokenizer is None:
            texts = prompts.vocabulary_texts(names, styles)
            tokenizer = prompts.train_tokenizer(texts, t.vocab_size, t.max_length, t.tokenizer)
        prompts.check_kind(tokenizer, t.tokenizer)
        dataset.prompter = prompts.Prompter(names, styles, prompts.Reader(tokenizer, t.max_length))
    return dataset


def load(config, root, split="train"):
    path = os.path.join(root, config.path)
    if config.kind == "jpeg":
        return load_jpeg(path, config.image_size, split, config.augment)
    if config.kind == "emoji":
        return load_emoji(path, os.path.join(root, config.labels), config.image_size, config.subjects,
                          config.min_styles, config.augment, held_out=split != "train",
                          without_groups=config.without_groups, and_groups=config.and_groups, without=config.without)
    if config.kind in ("folder", "latents"):
        inside = os.path.join(path, split)  # a folder for each split, or one for all
        path = inside if os.path.isdir(inside) else path
        if config.kind == "folder":
            return load_folder(path, config.image_size, config.augment)
        return load_latents(path, config.image_size, config.scaling_factor)
    raise ValueError(f"data.kind = {config.kind!r}; expected jpeg, emoji, folder or latents")


class Batches:
    """Endless shuffled batches; every process has its own order."""

    def __init__(self, dataset, batch, seed):
        self.dataset, self.batch = dataset, batch
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.long)

    def state(self):
        return {"order": self.order, "generator": self.generator.get_state()}

    def restore(self, state):
        self.order = state["order"]
        self.generator.set_state(state["generator"])

    def next(self, device):
        while len(self.order) < self.batch:
            self.order = torch.cat([self.order, torch.randperm(len(self.dataset), generator=self.generator)])
        index, self.order = self.order[: self.batch], self.order[self.batch :]
        return self.dataset.batch(index, device, self.generator)
