"""ONNX graphs of models that take prompts, in onnxruntime against the NumPy package."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ASSETS, FIXTURES, error
from refined import prompted, write
from test_onnx import inputs

from diffmoe import Config, Pipeline, weights
from diffmoe.model import Model
from diffmoe.onnx import ROUTINGS, build, main
from diffmoe.text import encode
from diffmoe.tokenizer import Tokenizer

MODELS = {name: FIXTURES / name / "model.safetensors" for name in ("t2i_tiny", "t2i_bpe")}
MODELS["emoji_text"] = ASSETS / "emoji_text.safetensors"
#: The empty prompt, a short one and one that is cut.
PROMPTS = ["a fox, twemoji", "", "a piñata and a red robot on a xylophone in flat style, of the flat robot " * 2]


def labelled() -> tuple[dict, dict]:
    """A random model with labels and prompts, and a refiner with an encoder of its own: document and tensors."""
    return prompted(labels=[{"name": "style", "tensor": "style_embedder.embedding_table.weight", "null": 2}])


def load(name):
    if name in MODELS:
        return weights.load(MODELS[name])
    document, tensors = labelled()
    return Config.from_dict(document), tensors


def session(graph):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def tokens(config, prompts, length):
    """Token ids and mask, padded to ``length`` or cut there."""
    tokenizer = Tokenizer(config.text.tokenizer, config.text.vocab_size, config.text.special_tokens)
    ids, counts = zip(*(tokenizer.encode(prompt, length) for prompt in prompts))
    return np.array(ids), (np.arange(length) < np.array(counts)[:, None]).astype(np.int64)


def encoded(graph, ids, mask):
    """What the text encoder's graph hands over to the transformer's."""
    names = [value.name for value in graph.get_outputs()]
    return dict(zip(names, graph.run(None, {"input_ids": ids, "attention_mask": mask}))) | {"encoder_attention_mask": mask}


@pytest.mark.parametrize("name", [*MODELS, "labelled"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_graphs_give_the_outputs_of_the_model(name, routing):
    config, tensors = load(name)
    model = Model(config, tensors)
    stages = [("text", "model", model)] + [("refiner-text", "refiner", model.refiner)] * (config.refiner is not None)
    for text_part, part, stage in stages:
        protos = [build(config, tensors, routing, part=which) for which in (text_part, part)]
        for proto in protos:
            onnx.checker.check_model(proto)
        text, step = (session(proto.SerializeToString()) for proto in protos)
        # Padded to the longest prompt, to less than that (it is cut) and alone.
        most = config.text.max_length
        for length, prompts in ((most, PROMPTS), (most - 4, PROMPTS), (most, PROMPTS[:1])):
            ids, mask = tokens(config, prompts, length)
            want, got = encode(stage.config, stage.weights, ids, mask.sum(1)), encoded(text, ids, mask)
            assert sorted(got) == sorted(v.name for v in step.get_inputs() if v.name.startswith(("encoder", "pooled")))
            assert error(got["pooled_projections"], want.pooled) < 1e-4
            assert error(got["encoder_hidden_states"], want.states) < 1e-4
            feed = inputs(config, len(prompts))
            labels = [feed[table.name] for table in config.labels]
            out, layers = stage.forward(feed["x"], feed["t"], labels, want)
            assert np.abs(step.run(None, feed | got)[0] - out).max() <= 1e-4 * np.abs(out).max()
            assert any(layer.taken.any() for layer in layers)


@pytest.mark.parametrize("name", ["emoji_text", "labelled"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_graphs_draw_what_the_pipeline_draws(name, routing, tmp_path, capsys):
    """What is joined to what, the tokenizer and who computes a step are read from the metadata alone; prompts are encoded
    once, with and without the null prompt beside them."""
    pytest.importorskip("tokenizers", reason="the tokenizer of ONNX graphs is not tested: tokenizers is not installed")
    from tokenizers import Tokenizer as Public

    file = MODELS[name] if name in MODELS else write(tmp_path / "m.safetensors", *labelled())
    pipe, steps = Pipeline.from_pretrained(file), 4
    out = tmp_path / "drawn.onnx"
    assert main([str(file), str(out), "--routing", routing]) == 0
    graphs, known = {}, {}
    for path in capsys.readouterr().out.split():
        graph = session(path)
        known |= graph.get_modelmeta().custom_metadata_map
        graphs[known["diffmoe.part"]] = graph
        assert path == str(out if known["diffmoe.part"] == "model" else tmp_path / f"drawn-{known['diffmoe.part']}.onnx")
    assert list(graphs) == ["model", "text", "refiner", "refiner-text"][: 2 if pipe.config.refiner is None else 4]
    assert [int(known[f"diffmoe.{of}_token_id"]) for of in ("bos", "eos", "pad")] == [
        getattr(pipe.tokenizer, of) for of in ("begin", "end", "pad")
    ]
    tokenizer = Public.from_str(json.dumps(json.loads(known["diffmoe"])["text"]["tokenizer"]))
    tokenizer.enable_truncation(int(known["diffmoe.max_length"]))
    tokenizer.enable_padding(pad_id=int(known["diffmoe.pad_token_id"]))
    rows = tokenizer.encode_batch([*PROMPTS[::2], "", ""])
    ids, mask = (np.array([getattr(row, of) for row in rows]) for of in ("ids", "attention_mask"))
    handed = {part: encoded(graphs[part], ids, mask) for part in graphs if part.endswith("text")}

    c, start = pipe.config, float(known.get("diffmoe.refiner_from", 2))
    z = first = np.random.default_rng(3).standard_normal((2, c.in_channels, *c.input_size)).astype(np.float32)
    for i in range(steps):
        step, text = ("refiner", "refiner-text") if i / steps >= start else ("model", "text")
        feed = {"x": np.tile(z, (2, 1, 1, 1)), "t": np.full(4, i / steps, np.float32)} | handed[text]
        feed |= {table.name: np.array([0, 1, table.null, table.null]) for table in c.labels}
        drawn, null = np.split(graphs[step].run(None, feed)[0], 2)
        guided = null + np.float32(1.5) * (drawn - null)
        velocity = guided if c.prediction == "velocity" else (guided - z) / np.float32(1 - i / steps)
        z = z + velocity / np.float32(steps)
    settings = {"num_inference_steps": steps, "guidance_scale": 1.5, "scheduler": "euler", "output_type": "latent"}
    settings |= {"cycle_spin": 1}
    settings |= {"labels": {table.name: [0, 1] for table in c.labels}} if c.labels else {}
    assert c.prediction == {"emoji_text": "data", "labelled": "velocity"}[name]
    assert error(z, pipe(prompt=PROMPTS[::2], latents=first, **settings).samples) < 1e-4
