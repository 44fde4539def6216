"""A run is one TOML file.  Every key has a default here and can be overridden on the
command line with ``--set section.key=value``.  A file with ``extends = "other.toml"``
contains only the differences."""

import dataclasses
import json
import os
from dataclasses import dataclass, field

from .. import config as models
from ..errors import one_of
from ..schedulers import suitable
from ..settings import cycle_spin
from . import describe, flow, toml


@dataclass
class Data:
    kind: str = "jpeg"  # labelled "jpeg" archive, "emoji" (subject x style), "folder" of images, "latents" of a VAE
    path: str = "eurosat/eurosat.npz"  # below --data-root
    labels: str = ""  # emoji: the records of the images
    image_size: int = 32  # images are box-averaged down to this
    scaling_factor: float = 0.18215  # latents: factor applied to samples of the encoder
    augment: str = "none"  # "none", "flip" or "dihedral" (the 8 symmetries of the square)
    subjects: list = field(default_factory=list)  # emoji: CLDR names to train on, in the order in which they are shown
    and_groups: list = field(default_factory=list)  # emoji: after them, the other subjects of these Unicode groups
    min_styles: int = 6  # emoji: minimum number of styles of a subject
    without_groups: list = field(default_factory=list)  # emoji: Unicode groups to leave out
    without: list = field(default_factory=list)  # emoji: subjects to leave out


@dataclass
class Model:
    kind: str = "diffmoe"  # or a baseline: "tc" (token choice), "ec" (expert choice in each sample), "dense"
    input_size: int = 32
    in_channels: int = 3
    patch_size: int = 4
    depth: int = 8
    hidden_size: int = 128
    num_heads: int = 2
    mlp_ratio: float = 4
    num_experts: int = 8  # 0: a dense model
    capacity: float = 1
    n_shared_experts: int = 0
    use_swiglu: bool = False
    qk_norm: bool = False
    interleave: bool = True
    learn_sigma: bool = False
    prediction: str = "velocity"  # of flow models; or "data", for patches with more values than hidden_size / 2
    detail_head: int = 0  # channels of the detail head; 0: none; needs prediction = "data"
    detail_phase: bool = False  # the detail head also sees where in its patch each pixel lies
    time_scale: float = 1000.0
    label_init_std: float = 0.02


@dataclass
class Text:
    """The text encoder; hidden_size 0: none, the model is label-conditioned."""

    tokenizer: str = "wordpiece"  # or "bpe": byte-level BPE as in CLIP
    vocab_size: int = 2048  # upper limit; the training prompts may need fewer, and "bpe" has at least 260
    max_length: int = 24  # tokens of a prompt, including begin and end
    hidden_size: int = 0
    depth: int = 3
    num_heads: int = 3
    mlp_ratio: float = 4


@dataclass
class Train:
    seed: int = 0
    device: str = "auto"
    threads: int = 0  # CPU threads, 0 = PyTorch's default
    amp: str = "off"  # "off" or "bf16"; leave it off on CPUs without bf16 units
    compile: bool = False  # torch.compile: half a minute at the start, then about 15 % faster on a CPU; needs a C++ compiler
    batch: int = 64  # per process; the routing pool is batch * tokens
    steps: int = 10000
    max_hours: float = 0  # 0: no limit; else progress = max(step/steps, hours/max_hours)
    lr: float = 1e-3
    betas: list = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: float = 0.0
    warmup: int = 200
    decay_fraction: float = 0.4  # the last part of the run, linear to zero
    init: str = ""  # start from the weights of this exported file
    only: list = field(default_factory=list)  # train only parameters with these name prefixes, such as "detail_head"
    # init of a text-conditioned model: batches with which its text encoder first learns the file's label vectors, or its own
    # output for the simplest sentence
    teach_steps: int = 1000
    teach_every: int = 0  # such a batch also in every n-th step of the run, so that it goes on understanding; 0: never
    text_lr: float = 1.0  # learning rate of the text encoder, relative to lr
    deadline: str = ""  # clock time with zone (2030-01-31T18:00+00:00) at which the decay ends, with the run
    decay_minutes: float = 20  # length of the decay when started by the deadline or by a file named "decay"
    grad_clip: float = 1.0
    ema: float = 0.9995
    ema_long: float = 0.0  # a second, longer average to choose from afterwards; 0: none
    ema_warmup: bool = True  # start with a short average: min(ema, (1 + n) / (10 + n)); false in the paper
    paper_thresholds: bool = False  # as the official code: thresholds start at 0, and EMA weights hold an average of them
    # [a, b]: all experts take all tokens until step a, then fewer until b
    capacity_schedule: list = field(default_factory=list)
    objective: str = "flow"  # or "ddpm", which needs model.learn_sigma and model.time_scale = 1
    t_dist: str = "uniform"  # as in the paper; or "logit_normal", which hardly samples any t below 0.05
    t_shift: float = 1.0  # above 1: times closer to noise, for high resolutions
    t_late: float = 0.0  # share of times drawn from U(t_late_from, 1) instead: trains the end of the trajectory
    t_late_from: float = 0.6
    least_noise: float = 0.05  # prediction "data": lower limit of 1 - t in the loss
    # for a refiner: the exported file of its base model, which takes one step for this share of the training samples whose
    # time is below refines_until (see handover)
    refines: str = ""
    refines_share: float = 0.5
    refines_until: float = 0.75
    gradient_weight: float = 0.0  # flow: adds this times the squared error of the differences between neighbouring pixels
    bce_weight: float = 1.0
    drop_all: float = 0.1
    drop_single: float = 0.05
    log_every: int = 20
    save_minutes: float = 5
    sample_minutes: float = 10
    judge_minutes: float = 0  # interval of measuring the error on held-out and seen images (heldout.csv); 0: never
    judge_images: int = 500  # of each set, at most
    # best.pt: the average with the lowest error on held-out images (heldout.figure); needs judge_minutes
    keep_best: bool = False


@dataclass
class Sample:
    steps: int = 30
    guidance: float = 2.0
    solver: str = "heun"
    cycle_spin: str = ""  # shifts over which the program averages the last predictions: "2", "4,0.7"; empty: not at all
    grid: list = field(default_factory=list)  # label names or prompts of the grids drawn during training; * is every style


@dataclass
class Run:
    name: str = "run"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    text: Text = field(default_factory=Text)
    train: Train = field(default_factory=Train)
    sample: Sample = field(default_factory=Sample)
    card: dict = field(default_factory=dict)


def check(c):
    """Reject contradictory settings before anything is loaded: first what no model is, then what cannot be trained."""
    m, t = c.model, c.train
    cycle_spin(models.Config.from_dict(describe.document(c, [])), None)
    if t.objective == "ddpm" and not (m.learn_sigma and m.time_scale == 1):
        raise ValueError("train.objective = \"ddpm\" needs model.learn_sigma = true and model.time_scale = 1")
    solvers = [kind.name for kind in suitable(t.objective)]
    if c.sample.solver not in solvers:
        raise ValueError(f"sample.solver = {c.sample.solver!r} does not fit train.objective = {t.objective!r}: "
                         f"expected {one_of(solvers)}")
    if m.prediction not in flow.PREDICTIONS:
        raise ValueError(f"model.prediction = {m.prediction!r}; expected velocity or, for flow models, data")
    if not (0 <= t.t_late <= 1 and 0 <= t.t_late_from < 1):
        raise ValueError(f"train.t_late = {t.t_late}, train.t_late_from = {t.t_late_from}: "
                         "expected a share in [0, 1] and a time in [0, 1)")
    if not 0 < t.least_noise <= 1:
        raise ValueError(f"train.least_noise = {t.least_noise}; expected a value above 0 and at most 1")
    if t.refines and (t.objective != "flow" or c.text.hidden_size):
        raise ValueError("train.refines needs a flow model that is conditioned on labels, not on prompts")
    if not 0 <= t.refines_share <= 1:
        raise ValueError(f"train.refines_share = {t.refines_share}; expected a share in [0, 1]")
    if t.judge_minutes and t.objective != "flow":
        raise ValueError("train.judge_minutes needs a flow model: it measures the error of the predicted image")
    if t.keep_best and not t.judge_minutes:
        raise ValueError("train.keep_best needs train.judge_minutes, which measures the error on held-out images")
    if m.detail_phase and not m.detail_head:
        raise ValueError("model.detail_phase = true needs a detail head: set model.detail_head to a number of channels")
    if t.teach_every and not (c.text.hidden_size and t.init):
        raise ValueError("train.teach_every needs a [text] section and train.init, the file whose text or labels it keeps")
    if t.capacity_schedule and (len(t.capacity_schedule) != 2 or not 0 <= t.capacity_schedule[0] < t.capacity_schedule[1]):
        raise ValueError(f"train.capacity_schedule = {t.capacity_schedule}; expected two steps in ascending order")
    if c.text.tokenizer not in ("wordpiece", "bpe"):
        raise ValueError(f"text.tokenizer = {c.text.tokenizer!r}; expected \"wordpiece\" or \"bpe\"")
    if m.kind == "tc" and m.capacity != int(m.capacity):
        raise ValueError(f"model.capacity = {m.capacity}: token choice needs a whole number of experts per token")
    return c


def from_dict(d):
    kinds = {"data": Data, "model": Model, "text": Text, "train": Train, "sample": Sample}
    parts = {}
    for key, value in d.items():
        if key in kinds:
            known = {f.name for f in dataclasses.fields(kinds[key])}
            if unknown := set(value) - known:
                raise ValueError(f"unknown keys in [{key}]: {sorted(unknown)}")
            parts[key] = kinds[key](**value)
        elif key in ("name", "card"):
            parts[key] = value
        else:
            raise ValueError(f"unknown section {key}")
    return check(Run(**parts))


def read(path):
    d = toml.read(path)
    if "extends" not in d:
        return d
    base = read(os.path.join(os.path.dirname(path), d.pop("extends")))
    for key, value in d.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    return base


def load(path, overrides=()):
    d = read(path)
    for item in overrides:
        key, _, value = item.partition("=")
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass
        section, _, name = key.partition(".")
        if name:
            d.setdefault(section, {})[name] = value
        else:
            d[section] = value
    return from_dict(d)


def to_dict(config):
    return dataclasses.asdict(config)
