"""Trace files, JSON and safetensors (docs/trace-format.md)."""

from __future__ import annotations

import json

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .errors import TraceError

EXPECTED = "expected a JSON or safetensors file written by `diffmoe sample --trace`"


def read(data: bytes) -> dict:
    """Fields of a trace; a JSON file starts with a brace."""
    try:
        return _from_json(data) if data.lstrip()[:1] == b"{" else _from_safetensors(data)
    except TraceError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, SafetensorError) as error:
        raise TraceError(f"not a trace: {type(error).__name__} {error}; {EXPECTED}") from None


def one_or_all(of_passes: list[np.ndarray]) -> np.ndarray:
    """The thresholds: ``[L, E]`` if all passes share them, otherwise ``[F, L, E]``."""
    first = of_passes[0]
    return first if all(np.array_equal(of, first) for of in of_passes) else np.stack(of_passes)


def scale_of(passes: list[int]) -> np.ndarray | None:
    """The scales of all passes ``[F]``; None if all are 1."""
    return None if all(scale == 1 for scale in passes) else np.array(passes, np.uint32)


def mask_type(experts: int) -> type:
    """The narrowest words that have a bit for each expert."""
    return np.uint32 if experts <= 32 else np.uint64


def _check_format(number) -> None:
    if number not in (1, 2):
        raise TraceError(f"the trace has format {number}, and this version reads 1 and 2; use a newer version")


def _from_json(data: bytes) -> dict:
    document = json.loads(data)
    _check_format(document["format"])
    forwards, experts = document["forwards"], document["experts"]
    layers = [forward["layers"] for forward in forwards]
    first = layers[0] if layers else []
    blocks = [layer["block"] for layer in first]
    if any([layer["block"] for layer in one] != blocks for one in layers):
        raise TraceError("the trace is damaged: a pass has other layers than the first; write it again")
    pool = len(first[0]["masks"]) if first else 0
    shape = (len(forwards), len(first), pool)

    def scores(key):
        if not first or not first[0].get(key):
            return None
        values = [layer[key] for one in layers for layer in one]
        return np.array(values, np.float64).astype(np.float16).reshape(*shape, experts)

    thresholds = None
    if first and first[0].get("thresholds"):
        # null stands for infinity, the threshold of muted experts.
        rows = [[[np.inf if v is None else v for v in layer["thresholds"]] for layer in one] for one in layers]
        thresholds = one_or_all(list(np.array(rows, np.float32)))
    return {
        "model": document["model"],
        "experts": experts,
        "grid": tuple(document["grid"]),
        "labels": document["labels"],
        "blocks": np.array(blocks, np.uint32),
        "step": np.array([forward["step"] for forward in forwards], np.uint32),
        "time": np.array([forward["time"] for forward in forwards], np.float32),
        "guided": np.array([forward["guided"] for forward in forwards], bool),
        "masks": np.array([layer["masks"] for one in layers for layer in one], mask_type(experts)).reshape(shape),
        "gate": scores("gate"),
        "need": scores("need"),
        "thresholds": thresholds,
        "scale": scale_of([forward.get("scale", 1) for forward in forwards]),
    }


def _from_safetensors(data: bytes) -> dict:
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    _check_format(int(header["format"]))
    return {
        "model": header["model"],
        "experts": tensors["counts"].shape[2],
        "grid": tuple(json.loads(header["grid"])),
        "labels": json.loads(header["labels"]),
        "blocks": tensors["blocks"],
        "step": tensors["step"],
        "time": tensors["time"],
        "guided": tensors["guided"] != 0,
        "masks": tensors["masks"],
        **{key: tensors.get(key) for key in ("gate", "need", "thresholds", "scale")},
    }


def to_safetensors(trace) -> bytes:
    """Safetensors file."""
    tensors = {
        "masks": trace.masks,
        "counts": trace.counts().astype(np.uint32).reshape(*trace.masks.shape[:2], trace.experts),
        "blocks": trace.blocks.astype(np.uint32),
        "step": trace.step.astype(np.uint32),
        "guided": trace.guided.astype(np.uint32),
        "time": trace.time.astype(np.float32),
    }
    optional = {"scale": trace.scale, "gate": trace.gate, "need": trace.need, "thresholds": trace.thresholds}
    tensors |= {key: value for key, value in optional.items() if value is not None}
    metadata = {
        "format": "2" if trace.has_scores else "1",
        "model": trace.model,
        "grid": json.dumps(list(trace.grid)),
        "labels": json.dumps(trace.labels),
    }
    return save({key: np.ascontiguousarray(value) for key, value in tensors.items()}, metadata)


def to_json(trace) -> bytes:
    """JSON file."""
    counts, tokens = trace.counts(), max(trace.masks.shape[2], 1)
    thresholds = trace.thresholds
    if thresholds is not None:
        thresholds = np.broadcast_to(thresholds, (len(trace.step), *thresholds.shape[-2:]))

    def layer(f, i):
        out = {
            "block": int(trace.blocks[i]),
            "capacity": _short(np.float32(counts[f, i].sum() / tokens)),
            "counts": counts[f, i].tolist(),
            "masks": trace.masks[f, i].tolist(),
        }
        if trace.has_scores:
            out["gate"] = _five_digits(trace.gate[f, i])
            out["need"] = [] if trace.need is None else _five_digits(trace.need[f, i])
            known = [] if thresholds is None else thresholds[f, i]
            out["thresholds"] = [_short(value) if np.isfinite(value) else None for value in known]
        return out

    capacity = trace.capacity
    document = {
        "format": 2 if trace.has_scores else 1,
        "model": trace.model,
        "experts": trace.experts,
        "tokens_per_picture": trace.tokens,
        "grid": list(trace.grid),
        "labels": trace.labels,
        "capacity": None if capacity is None else _short(np.float32(capacity)),
        "capacity_by_step": [_short(np.float32(value)) for value in trace.capacity_by_step()],
        "capacity_by_picture": [_short(np.float32(value)) for value in trace.capacity_by_image()],
        "forwards": [
            {
                "step": int(trace.step[f]),
                "time": _short(trace.time[f]),
                "guided": bool(trace.guided[f]),
                **({} if trace.scale is None or trace.scale[f] == 1 else {"scale": int(trace.scale[f])}),
                "layers": [layer(f, i) for i in range(len(trace.blocks))],
            }
            for f in range(len(trace.step))
        ],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _short(value: np.float32) -> float:
    """The shortest decimal number that rounds to a float32."""
    return float(np.format_float_positional(value, unique=True))


def _five_digits(values: np.ndarray) -> list[float]:
    """Five digits identify a float16. Rounds half away from zero, as in the Rust program."""
    values = values.reshape(-1).astype(np.float64)
    known = np.where(values == 0, 1, np.abs(values))
    scale = 10.0 ** (4 - np.floor(np.log10(known)))
    return (np.copysign(np.floor(np.abs(values) * scale + 0.5), values) / scale).tolist()
