"""Checks of a model configuration: what is supported, and what fits together."""

from .errors import ModelError

KINDS = ("dense", "tc", "ec", "diffmoe")
#: The most experts of a layer: bits of a routing mask.
MOST_EXPERTS = 64


def check_params(params: dict) -> None:
    """Checks ``params`` for forms that no configuration describes."""
    if params.get("use_sinks") or params.get("enable_gqa"):
        raise ModelError("attention sinks (use_sinks) and grouped queries (enable_gqa) are not supported")
    forms = (("rope_type", ("none", "2d")), ("norm_type", ("layernorm", "rmsnorm")), ("mlp_act", ("gelu", "silu")))
    for key, known in forms:
        if params.get(key, known[0]) not in known:
            raise ModelError(f"{key} is {params[key]!r}; {' and '.join(known)} are supported")
    for key in ("context_tokens", "context_start"):
        value = params.get(key, 0)
        if not isinstance(value, int) or value < 0:
            raise ModelError(f"{key} must be a whole number of at least 0, got {value!r}")


def check(config) -> None:
    """Raises :class:`ModelError` unless the values of a :class:`diffmoe.config.Config` are supported and consistent."""

    def wrong(text):
        raise ModelError(f"invalid model configuration: {text}")

    if config.kind not in KINDS:
        wrong(f'kind is "{config.kind}"; {", ".join(KINDS)} are supported')
    if config.objective not in ("flow", "ddpm"):
        wrong(f't_kind is "{config.objective}"; flow and ddpm are supported')
    if config.prediction not in ("velocity", "data", "reversed"):
        wrong(f'prediction is "{config.prediction}"; velocity, data and reversed are supported')
    sizes = [*config.input_size, config.patch_size, config.depth, config.hidden_size, config.num_heads]
    if min(*sizes, config.head_dim, config.in_channels, config.ffn_hidden, config.expert_hidden) < 1:
        wrong("every size must be at least 1")
    for side in config.input_size:
        if side % config.patch_size:
            wrong(f"input_size {side} must be a multiple of patch_size {config.patch_size}")
    if config.router not in ("softmax", "sigmoid", "prototypes"):
        wrong(f'router is "{config.router}"; softmax, sigmoid and prototypes are supported')
    if config.unconditional and (len(config.labels) != 1 or config.text is not None):
        wrong("use_uncond_expert requires exactly one label table and no prompts")
    if config.rope and config.head_dim % 4:
        wrong(f"head_dim {config.head_dim} must be a multiple of 4")
    if config.hidden_size % 4:
        wrong(f"hidden_size {config.hidden_size} must be a multiple of 4")
    if config.kind != "dense" and not 1 <= config.num_experts <= MOST_EXPERTS:
        wrong(f"{config.num_experts} experts; 1 to {MOST_EXPERTS} are supported")
    if config.kind != "dense" and not config.capacity > 0:
        wrong(f"capacity must be above 0, got {config.capacity}")
    if config.kind in ("tc", "ec") and not config.capacity <= config.choosers:
        wrong(f"capacity must be at most {config.choosers}, the number of experts, got {config.capacity}")
    if config.kind == "tc" and config.capacity < 1:
        wrong(f"capacity must be at least 1 for token choice, got {config.capacity}")
    if config.objective == "ddpm" and config.prediction != "velocity":
        wrong(f'prediction "{config.prediction}" is for flow models; DDPM models predict the noise')
    if config.detail_channels and (config.prediction != "data" or config.out_channels != config.in_channels):
        wrong('detail_head requires prediction "data" and learn_sigma false')
    if config.context_tokens:
        if config.kind not in ("dense", "tc") or config.router == "prototypes":
            wrong('context_tokens requires kind "dense", or "tc" with a softmax or sigmoid router')
        if not config.labels or config.text is not None:
            wrong("context_tokens requires a label table and no prompts")
        if config.context_start >= config.depth:
            wrong(f"context_start {config.context_start} must be below depth {config.depth}")
    if not config.qk_norm_eps > 0:
        wrong(f"qk_norm_eps must be above 0, got {config.qk_norm_eps}")
    if not config.time_scale > 0:
        wrong(f"time_scale must be above 0, got {config.time_scale}")


def check_refiner(config) -> None:
    """Raises :class:`ModelError` unless the refiner fits the model whose last steps it computes."""

    def wrong(text):
        raise ModelError(f"invalid model configuration: a refiner {text}")

    if not 0 < config.refiner_from < 1:
        wrong(f"from {config.refiner_from}; it must be a time between 0 and 1")
    if config.objective != "flow":
        wrong("of a DDPM model; only flow models have one")
    base, fine = config, config.refiner
    if any(getattr(base, key) != getattr(fine, key) for key in ("input_size", "in_channels", "out_channels", "prediction")):
        wrong("with other samples; size, channels and prediction must be the model's")
    if base.labels != fine.labels:
        wrong("with other labels; num_classes must be the model's")
    if any(getattr(base, key) != getattr(fine, key) for key in ("kind", "num_experts", "moe_blocks")):
        wrong("with other experts; their number and blocks must be the model's")
    if base.patch_size % fine.patch_size:
        wrong(f"with patches of {fine.patch_size}, which do not divide those of {base.patch_size}")
