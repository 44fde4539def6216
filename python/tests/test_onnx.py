"""ONNX graphs in onnxruntime against the NumPy model."""

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ASSETS, FIXTURES, context_model

from diffmoe import ModelError, files, weights
from diffmoe.model import Model
from diffmoe.onnx import ROUTINGS, build, main

#: Every router, SwiGLU with a shared expert, the detail head with two label tables, and two shipped models.
CASES = (
    "dense_flow",
    "tc_flow",
    "ec_flow",
    "diffmoe_swiglu_shared",
    "diffmoe_ddpm",
    "detail_head",
    "dit_moe_flow",
    "dsmoe",
    "promoe",
    "promoe_ec",
    "jit_moe",
)
MODELS = [FIXTURES / name / "model.safetensors" for name in CASES]
MODELS += [ASSETS / f"{name}.safetensors" for name in ("eurosat", "emoji_256")]


def inputs(config, batch: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch)
    t = random.uniform(0, 1, batch) if config.objective == "flow" else random.integers(0, 1000, batch)
    feed = {
        "x": random.standard_normal((batch, config.in_channels, *config.input_size)).astype(np.float32),
        "t": t.astype(np.float32),
    }
    return feed | {table.name: random.integers(0, table.null + 1, batch) for table in config.labels}


def evaluate(graph, feed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem if path.parent == ASSETS else path.parent.name)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_graph_gives_the_outputs_of_the_model(path, routing):
    config, tensors = weights.load(files.find(path))
    model = Model(config, tensors)
    check_graph(build(config, tensors, routing), model, routing)
    if config.refiner is not None:
        check_graph(build(config, tensors, routing, part="refiner"), model.refiner, routing)


def check_graph(graph, model, routing):
    config = model.config
    onnx.checker.check_model(graph)
    kinds = {node.op_type for node in graph.graph.node}
    assert ("ScatterND" in kinds) == (routing == "exact" and config.kind != "dense")
    for batch in (1, 3):
        feed = inputs(config, batch)
        want, layers = model.forward(feed["x"], feed["t"], [feed[table.name] for table in config.labels])
        got = evaluate(graph.SerializeToString(), feed)
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
        assert config.kind == "dense" or any(layer.taken.any() for layer in layers)


@pytest.mark.parametrize("more", [{}, {"norm_type": "rmsnorm", "qk_norm": True, "qk_norm_eps": 50.0}])
def test_tokens_of_the_context_are_the_sum_of_all_labels(more):
    model, (x, t, labels), _ = context_model(**more)
    feed = {"x": x, "t": t.astype(np.float32), "subject": labels[0], "style": labels[1]}
    got = evaluate(build(model.config, model.weights).SerializeToString(), feed)
    want, _ = model.forward(x, t, labels)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_the_command_writes_a_graph_with_its_description(tmp_path, capsys):
    out = tmp_path / "eurosat.onnx"
    source = ASSETS / "eurosat.safetensors"
    assert main([str(source), str(out), "--routing", "exact"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    model = onnx.load(out)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"diffmoe": files.TensorFile(source).config_text}
    assert [value.name for value in model.graph.output] == ["data"]
    assert main([str(tmp_path / "none.safetensors"), str(out)]) == 2
    errors = capsys.readouterr().err
    with pytest.raises(ModelError, match="eurosat has no refiner: expected model"):
        build(*weights.load(source), part="refiner")
    with pytest.raises(ModelError, match="unknown part 'head'"):
        build(*weights.load(source), part="head")
    assert "no model file" in errors
