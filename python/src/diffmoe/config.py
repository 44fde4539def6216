"""Model configuration, read from the JSON in the file header (docs/models.md, docs/models-text.md).

``params`` has the keys of the official YAML files. Notation: ``D`` hidden size, ``H`` heads, ``T`` tokens per image, ``E``
experts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np

from .config_checks import KINDS, MOST_EXPERTS, check, check_params, check_refiner
from .errors import ModelError

__all__ = ["KINDS", "MOST_EXPERTS", "TABLE", "Config", "LabelTable", "TextConfig"]

#: What the names of the tensors of label tables end with.
TABLE = ".embedding_table.weight"


@dataclass(frozen=True)
class LabelTable:
    """A label embedding table: classes, subjects, styles."""

    name: str
    tensor: str
    null: int  #: row for "no label"
    values: tuple[str, ...] = ()  #: names of the other rows; empty if the file has none

    def find(self, label) -> int | None:
        """Looks up a row by name (case, spaces and punctuation are ignored) or number."""
        if isinstance(label, str):
            names = [_fold(value) for value in self.values]
            if _fold(label) in names:
                return names.index(_fold(label))
            if not label.isdecimal():
                return None
        row = int(label)
        return row if 0 <= row <= self.null and not (isinstance(label, str) and row == self.null) else None

    def label(self, row: int) -> str:
        """Name of a row, or its number if it has none."""
        return self.values[row] if row < len(self.values) else str(row)


def _fold(text: str) -> str:
    return "".join(c.lower() for c in text if c.isalnum())


@dataclass(frozen=True)
class TextConfig:
    """Text encoder of a text-conditioned model."""

    vocab_size: int
    max_length: int
    hidden_size: int
    depth: int
    num_heads: int
    ffn_hidden: int
    tokenizer: dict
    special_tokens: dict
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """Architecture and training objective of a model."""

    name: str
    kind: str  #: dense, tc (token choice), ec (expert choice) or diffmoe
    objective: str  #: flow (t from 0, noise, to 1, data) or ddpm (integer steps, 0 is data)
    prediction: str  #: output of a flow model: velocity, data, or reversed (the opposite velocity, of models that see 1 - t)
    time_scale: float
    pixels: bool  #: whether samples are pixels in [-1, 1] rather than latents
    input_size: tuple[int, int]  #: height and width of a sample
    in_channels: int
    out_channels: int
    patch_size: int
    depth: int
    hidden_size: int
    num_heads: int
    head_dim: int
    qk_norm: bool
    qk_norm_eps: float  #: what the norms of queries and keys add to the variance
    rms_norm: bool  #: whether norms divide by the root mean square, without subtracting a mean
    rope: bool  #: whether queries and keys are rotated by position (2-D RoPE)
    pos_embed: bool  #: whether a position embedding is added to the patches
    context_tokens: int  #: tokens of the labels, before those of the image in the blocks from ``context_start`` on
    context_start: int
    ffn_hidden: int  #: width of the feed-forward network of a dense block
    swiglu: bool
    swiglu_bias: bool  #: whether the layers of SwiGLU networks have biases
    mlp_act: str  #: activation of dense blocks without SwiGLU: gelu or silu
    expert_hidden: int  #: width of an expert
    expert_swiglu: bool
    router: str  #: weights of token and expert choice: softmax, sigmoid (DSMoE) or prototypes (ProMoE)
    router_scale: float  #: sum of the weights of a token with a sigmoid router
    unconditional: bool  #: whether the last expert has no prototype and takes the samples without a label
    num_experts: int
    capacity: float
    interleave: bool
    shared_hidden: int  #: width of the shared expert; 0 if there is none
    shared_swiglu: bool
    detail_channels: int  #: channels of the detail head; 0 if there is none
    detail_phase: bool  #: whether the detail head also sees where in its patch each pixel lies
    labels: tuple[LabelTable, ...]
    text: TextConfig | None
    defaults: dict = field(default_factory=dict)  #: steps, guidance, scheduler, cycle_spin, showcase (rows of labels that the model draws well)
    refiner: Config | None = None  #: of a second transformer with smaller patches, which computes the steps near the data
    refiner_from: float = 1.0  #: the refiner computes the steps that begin at this time or later

    @property
    def finest(self) -> Config:
        """The configuration with the smallest patches: that of the refiner, or the model's own."""
        return self if self.refiner is None else self.refiner

    def is_refined(self, time: float) -> bool:
        """Whether a step whose first pass is at ``time`` belongs to the refiner. In float32, and with some slack because times
        of steps are rounded quotients, as in the Rust program."""
        return self.refiner is not None and bool(np.float32(time) >= np.float32(self.refiner_from) - np.float32(1e-5))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.input_size[0] // self.patch_size, self.input_size[1] // self.patch_size

    @property
    def tokens(self) -> int:
        """``T``."""
        return self.grid[0] * self.grid[1]

    def context_of(self, block: int) -> int:
        """Tokens of the context that take part in a block."""
        return self.context_tokens if block >= self.context_start else 0

    @property
    def tokens_of_expert(self) -> int:
        """Tokens per sample that each expert takes with expert choice; at least one for experts with prototypes."""
        # The official code divides first and truncates the product.
        count = int(self.tokens / self.choosers * self.capacity)
        return min(max(count, 1), self.tokens) if self.router == "prototypes" else count

    @property
    def choosers(self) -> int:
        """Experts that tokens are distributed to; not the one for samples without a label."""
        return self.num_experts - self.unconditional

    @property
    def makes_images(self) -> bool:
        """Whether samples are RGB images."""
        return self.pixels and self.in_channels == 3

    def is_moe(self, block: int) -> bool:
        """Whether a block (from 0) routes tokens to experts."""
        return self.kind != "dense" and (not self.interleave or block % 2 == 1)

    @property
    def moe_blocks(self) -> list[int]:
        """Blocks that route tokens to experts, in order."""
        return [i for i in range(self.depth) if self.is_moe(i)]

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Parses and validates a configuration."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise ModelError(f"the model configuration is not valid JSON ({error}); download the file again") from None

    @classmethod
    def from_dict(cls, document: dict) -> Config:
        """Validates a parsed configuration."""
        try:
            config = _read(document)
            section = document.get("refiner")
            start = None if section is None else float(section["from"])
        except KeyError as error:
            raise ModelError(f"the model configuration has no key {error}") from None
        except (TypeError, AttributeError, IndexError) as error:
            raise ModelError(f"the model configuration has a value of the wrong type ({error})") from None
        check(config)
        if section is None:
            return config
        config = replace(config, refiner=cls.from_dict(_refiner_document(document)), refiner_from=start)
        check_refiner(config)
        return config


def _refiner_document(document: dict) -> dict:
    """The document of a model's refiner as one of its own: that of the model, with the refiner's ``params``."""
    if document["refiner"].get("params") is None:
        raise ModelError("a refiner needs params, as the model has them")
    own = {key: value for key, value in document.items() if key != "refiner"}
    return own | {"params": document["refiner"]["params"]}


def _read(document: dict) -> Config:
    params = document["params"]
    kind, width = document["kind"], params["hidden_size"]
    moe = params.get("MoE_config") or {}
    ffn_hidden, swiglu = int(width * float(params.get("mlp_ratio", 4))), bool(params.get("use_swiglu", False))
    experts = {"expert_hidden": ffn_hidden, "expert_swiglu": swiglu, "router": moe.get("router", "softmax"), "router_scale": 1.0}
    experts["unconditional"] = False
    shared = moe.get("n_shared_experts") or 0
    # As in the official code: DiffMoE has one GELU network of width 8D regardless of n, the baselines a SwiGLU of width n·D.
    if not shared or kind == "dense":
        shared_hidden, shared_swiglu = 0, False
    elif kind == "diffmoe":
        shared_hidden, shared_swiglu = 8 * width, False
    else:
        shared_hidden, shared_swiglu = shared * width, True
    if experts["router"] == "sigmoid" and kind != "tc":
        raise ModelError('a sigmoid router requires kind "tc"')
    if experts["router"] == "prototypes" and kind not in ("tc", "ec"):
        raise ModelError('a router by prototypes requires kind "tc" or "ec"')
    if experts["router"] == "sigmoid":
        shared_hidden, shared_swiglu = _sigmoid_experts(moe, experts), True
    elif experts["router"] == "prototypes":
        shared_hidden, shared_swiglu = _prototype_experts(kind, moe, experts), False
    check_params(params)
    tables = tuple(
        LabelTable(table["name"], table["tensor"], table["null"], tuple(table.get("values") or ()))
        for table in document.get("labels") or ()
    )
    text = _text(document["text"]) if document.get("text") else None
    if not tables and text is None:
        null = document.get("null_class")
        null = params["num_classes"] if null is None else null
        tables = (LabelTable("class", f"y_embedder{TABLE}", null),)
    size = params["input_size"]
    channels = params.get("in_channels", 4)
    defaults = document.get("defaults") or {}
    prediction, rope = params.get("prediction", "velocity"), params.get("rope_type", "none") == "2d"
    return Config(
        name=document.get("name") or "unnamed",
        kind=kind,
        objective=document["t_kind"],
        prediction="data" if prediction == "sample" else prediction,
        time_scale=float(document.get("time_scale", 1.0)),
        pixels=document.get("space") == "pixels",
        input_size=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
        in_channels=channels,
        out_channels=2 * channels if params.get("learn_sigma", True) else channels,
        patch_size=params["patch_size"],
        depth=params["depth"],
        hidden_size=width,
        num_heads=params["num_heads"],
        head_dim=params.get("head_dim") or width // max(params["num_heads"], 1),
        qk_norm=bool(params.get("qk_norm", False)),
        qk_norm_eps=float(params.get("qk_norm_eps", 1e-5)),
        rms_norm=params.get("norm_type") == "rmsnorm",
        rope=rope,
        pos_embed=bool(params.get("pos_embed", not rope)),
        context_tokens=params.get("context_tokens", 0),
        context_start=params.get("context_start", 0),
        ffn_hidden=ffn_hidden,
        swiglu=swiglu,
        swiglu_bias=bool(params.get("swiglu_bias", False)),
        mlp_act=params.get("mlp_act", "gelu"),
        **experts,
        num_experts=moe.get("num_experts", 0) if kind != "dense" else 0,
        capacity=float(moe.get("capacity", 1.0)),
        interleave=bool(moe.get("interleave", True)),
        shared_hidden=shared_hidden,
        shared_swiglu=shared_swiglu,
        detail_channels=_detail_channels(params),
        detail_phase=bool((params.get("detail_head") or {}).get("phase", False)),
        labels=tables,
        text=text,
        defaults={
            "steps": defaults.get("steps", 50),
            "guidance": defaults.get("guidance", 1.5),
            "scheduler": defaults.get("solver", defaults.get("scheduler", "euler")),
            "cycle_spin": defaults.get("cycle_spin"),
            "showcase": (defaults.get("showcase") or {}).get("rows", []),
        },
    )


def _prototype_experts(kind: str, moe: dict, experts: dict) -> int:
    """Fills in the expert settings of ProMoE. Returns the width of the shared expert."""
    if not moe.get("moe_intermediate_size"):
        raise ModelError("a router by prototypes requires moe_intermediate_size, the width of an expert")
    if kind == "tc" and int(moe.get("capacity", 1)) != 1:
        raise ModelError(f"a router by prototypes requires capacity 1, got {moe['capacity']}")
    unconditional = bool(moe.get("use_uncond_expert", True))
    if unconditional and moe["num_experts"] < 2:
        raise ModelError("use_uncond_expert requires at least two experts")
    experts |= {"expert_hidden": moe["moe_intermediate_size"], "expert_swiglu": False, "unconditional": unconditional}
    if moe.get("use_shared_expert") is False:
        return 0
    if not moe.get("shared_expert_intermediate_size"):
        raise ModelError("a router by prototypes requires shared_expert_intermediate_size, or use_shared_expert false")
    return moe["shared_expert_intermediate_size"]


def _sigmoid_experts(moe: dict, experts: dict) -> int:
    """Fills in the expert settings of DSMoE. Returns the width of the shared expert, which equals that of the routed ones."""
    if not moe.get("moe_intermediate_size"):
        raise ModelError("a sigmoid router requires moe_intermediate_size, the width of an expert")
    if (moe.get("topk_group") or 0) < (moe.get("n_group") or 0):
        raise ModelError("topk_group below n_group: selection within groups is not supported")
    if moe.get("skip_first2") or moe.get("use_shared_expert") is False:
        raise ModelError("skip_first2, and use_shared_expert false, are not supported")
    scale = moe.get("routed_scaling_factor", 1.0)
    if not scale > 0:
        raise ModelError(f"routed_scaling_factor must be above 0, got {scale}")
    experts |= {"expert_hidden": moe["moe_intermediate_size"], "expert_swiglu": True, "router_scale": float(scale)}
    return experts["expert_hidden"]


def _detail_channels(params: dict) -> int:
    head = params.get("detail_head")
    if head is None:
        return 0
    if not isinstance(head.get("channels"), int) or head["channels"] < 1:
        raise ModelError(f"detail_head.channels must be a whole number of at least 1, got {head.get('channels')!r}")
    return head["channels"]


def _text(section: dict) -> TextConfig:
    width = section["hidden_size"]
    text = TextConfig(
        vocab_size=section["vocab_size"],
        max_length=section["max_length"],
        hidden_size=width,
        depth=section["depth"],
        num_heads=section["num_heads"],
        ffn_hidden=int(width * section.get("mlp_ratio", 4)),
        tokenizer=section["tokenizer"],
        special_tokens=section.get("special_tokens") or {},
        examples=tuple(section.get("examples") or ()),
    )
    if min(text.vocab_size, text.depth, text.num_heads, text.ffn_hidden) < 1 or not 3 <= text.max_length <= 4096:
        raise ModelError("text section: every size must be at least 1, and max_length 3–4096")
    if width % text.num_heads:
        raise ModelError(f"text section: hidden_size {width} must be a multiple of num_heads {text.num_heads}")
    return text
