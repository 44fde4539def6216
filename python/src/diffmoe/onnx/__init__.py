"""Exports one forward pass as an ONNX graph: ``python -m diffmoe.onnx MODEL OUT.onnx`` (needs ``diffmoe[onnx]``).

Inputs: samples ``x [B, C, height, width]``, times ``t [B]``, and one array of label indices ``[B]`` per label table, named
after the table. The output is named after what the model predicts: ``velocity``, ``data``, ``reversed`` (the opposite
velocity) or ``noise``. The batch size is dynamic.

The MoE layers take one of two equivalent forms. ``masked`` runs every expert on every token and masks the results: slow, but
it uses common operators with static shapes only. ``exact`` gathers the tokens that each expert selects (NonZero, Gather,
ScatterND), so compute scales with the routing. The routing rule is ``token``, under which an image does not depend on its
batch.

Each part of a model becomes a graph: the transformer ``OUT.onnx``, any other part ``OUT-PART.onnx`` beside it. Where there are
several, the metadata ``diffmoe.part`` says which part a graph is.

``text`` encodes prompts, once per run: ``input_ids [N, L]`` and ``attention_mask [N, L]`` (1 at tokens, 0 at padding) to
``encoder_hidden_states [N, L, D_t]`` and ``pooled_projections [N, D]``. The transformer has both as inputs, a row for each
sample, and the mask as ``encoder_attention_mask``. ``L`` is dynamic, at most ``diffmoe.max_length``. Prompts begin with
``diffmoe.bos_token_id``, end with ``diffmoe.eos_token_id`` and are padded with ``diffmoe.pad_token_id``.

``refiner`` is the second transformer of a model that has one, with the same inputs. It computes the steps from the time
``diffmoe.refiner_from`` on. Its text encoder, ``refiner-text``, is its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from .. import files, weights
from ..config import Config
from ..errors import ModelError, one_of
from ..model import Model
from ..tokenizer import Tokenizer
from . import text
from .graph import Graph
from .transformer import Transformer

OPSET = 20  #: the first with Gelu
ROUTINGS = ("masked", "exact")
PARTS = ("model", "text", "refiner", "refiner-text")


def parts(config: Config) -> list[str]:
    """The parts of a model that are graphs, of ``PARTS``."""
    there = {"text": config.text is not None, "refiner": config.refiner is not None}
    return [part for part in PARTS if all(there.get(word, True) for word in part.split("-"))]


def build(
    config: Config, tensors: dict[str, np.ndarray], routing: str = "masked", description: str | None = None, part: str = "model"
):
    """Returns a part of a model as an ``onnx.ModelProto``. ``description`` is stored in the metadata under ``diffmoe``."""
    for given, known, what in ((routing, ROUTINGS, "routing"), (part, PARTS, "part")):
        if given not in known:
            raise ModelError(f"unknown {what} {given!r}: expected {one_of(known)}")
    if part not in parts(config):
        raise ModelError(f"{config.name} has no {part}: expected {one_of(parts(config))}")
    model, properties = Model(config, tensors), _properties(config, description, part)
    model = model.refiner if part.startswith("refiner") else model
    graph = Graph(model.weights)
    helper = graph.onnx.helper
    write = _encoder if part.endswith("text") else _transformer
    values, inputs, outputs = write(model.config, graph, routing)
    graph.nodes += [helper.make_node("Identity", [value], [name]) for value, name in zip(values, outputs)]
    inputs, outputs = (
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
            for name, (kind, shape) in of.items()
        ]
        for of in (inputs, outputs)
    )
    body = helper.make_graph(graph.nodes, config.name, inputs, outputs, list(graph.constants.values()))
    opset = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(body, producer_name="diffmoe", opset_imports=opset, ir_version=9)
    helper.set_model_props(proto, {key: str(value) for key, value in properties.items()})
    return proto


def _transformer(config: Config, graph: Graph, routing: str):
    """The output, and types and shapes of inputs and outputs."""
    inputs = {"x": ("float32", ["B", config.in_channels, *config.input_size]), "t": ("float32", ["B"])}
    inputs |= {table.name: ("int64", ["B"]) for table in config.labels}
    if config.text is not None:
        inputs[text.STATES] = ("float32", ["B", "L", config.text.hidden_size])
        inputs[text.STATES_MASK] = ("int64", ["B", "L"])
        inputs[text.POOLED] = ("float32", ["B", config.hidden_size])
    prediction = config.prediction if config.objective == "flow" else "noise"
    outputs = {prediction: ("float32", ["B", config.out_channels, *config.input_size])}
    return [Transformer(config, graph, routing).output()], inputs, outputs


def _encoder(config: Config, graph: Graph, _: str):
    """The same of the text encoder."""
    inputs = {name: ("int64", ["N", "L"]) for name in (text.IDS, text.MASK)}
    outputs = {
        text.STATES: ("float32", ["N", "L", config.text.hidden_size]),
        text.POOLED: ("float32", ["N", config.hidden_size]),
    }
    return text.outputs(config, graph), inputs, outputs


def _properties(config: Config, description: str | None, part: str) -> dict[str, object]:
    """The metadata of a part."""
    found, key = {} if description is None else {files.CONFIG_KEY: description}, files.CONFIG_KEY
    if len(parts(config)) > 1:
        found[f"{key}.part"] = part
    if config.refiner is not None:
        found[f"{key}.refiner_from"] = config.refiner_from
    if part.endswith("text"):
        tokenizer = Tokenizer(config.text.tokenizer, config.text.vocab_size, config.text.special_tokens)
        found[f"{key}.max_length"] = config.text.max_length
        for name, token in (("bos", tokenizer.begin), ("eos", tokenizer.end), ("pad", tokenizer.pad)):
            found[f"{key}.{name}_token_id"] = token
    return found


def export(source, out, routing: str = "masked") -> list[Path]:
    """Writes the graphs of a model file (a path or a name, as in ``Pipeline.from_pretrained``), those of its other parts beside
    that of the transformer. Returns the paths of what was written."""
    path, out = files.find(source), Path(out)
    config, tensors = weights.load(path)
    description = files.TensorFile(path).config_text
    names = {part: out if part == "model" else out.with_name(f"{out.stem}-{part}{out.suffix}") for part in parts(config)}
    graphs = {names[part]: build(config, tensors, routing, description, part).SerializeToString() for part in names}
    for name, graph in graphs.items():
        name.write_bytes(graph)
    return list(graphs)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m diffmoe.onnx", description="Export one forward pass as an ONNX graph.")
    parser.add_argument("model", metavar="MODEL", help="safetensors file, index or name of a model")
    parser.add_argument(
        "out", metavar="OUT.onnx", help="file to write; beside it OUT-text.onnx and OUT-refiner.onnx if there are such parts"
    )
    parser.add_argument("--routing", choices=ROUTINGS, default="masked", help="form of the MoE layers [default: masked]")
    given = parser.parse_args(arguments)
    try:
        for name in export(given.model, given.out, given.routing):
            print(name)
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        print('error: the package onnx is not installed; pip install "diffmoe[onnx]"', file=sys.stderr)
        return 2
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
