"""Recorded results of the official PyTorch modules and of the trainer: outputs, every block, routing sets, samples."""

import numpy as np
import pytest
from conftest import ASSETS, FIXTURES, LABELLED, Case, context_model, error
from safetensors.numpy import load_file

from diffmoe import Pipeline, schedulers
from diffmoe.routing import Routing
from diffmoe.sampling import Run, sample
from diffmoe.text import encode

CASES = (*LABELLED, "t2i_tiny", "t2i_bpe")
INPUTS = {"x", "t", "y", "tokens", "negative_tokens"}
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", CASES)
def test_recorded_results(name):
    case = Case(name)
    pipe, io = case.pipe, case.io
    text = null = None
    if pipe.config.text:
        text = pipe._encode(case.settings["prompts"])
        null = pipe._encode([case.settings["negative"]] * len(io["x"]))
    taps = {}
    out, _ = pipe.model.forward(io["x"], io["t"], case.labels, text, Routing("pool"), taps)
    taps["out"] = out
    if text is not None:
        taps |= {"text.out": text.states, "text.pooled": text.pooled}

    answers = [key for key in io if key not in INPUTS and not key.endswith("_noise")]
    assert len(answers) >= 5
    for key in answers:
        wanted = io[key]
        if key in taps:
            got = np.asarray(taps[key]).reshape(wanted.shape)
        else:
            got = sampled(case, key, text, null)
        if wanted.dtype.kind in "iu":
            assert np.array_equal(got, wanted), f"{key}: routing differs"
        else:
            assert error(got, wanted) < TOLERANCE, key


def sampled(case, key, text, null):
    """A recorded sampling run, ``SCHEDULER_cfg``, ``SCHEDULER_nocfg`` or ``SCHEDULER_interval``."""
    name, guidance = key.rsplit("_", 1)
    steps = case.settings["heun_steps" if name == "heun" else "steps"]
    scale = 1.0 if guidance == "nocfg" else case.settings["cfg_scale"]
    interval = case.settings["interval"] if guidance == "interval" else (0.0, 1.0)
    noise, batch = case.io.get(f"{key}_noise"), len(case.io["x"])
    # Guided DDPM runs recorded noise for both halves of the joint batch; the second half is discarded.
    step_noise = None if noise is None else lambda i: noise[i, :batch]
    run = Run(case.pipe.model, case.labels, text, null, scale, Routing("pool"), step_noise, interval)
    return sample(run, schedulers.resolve(name, case.pipe.config, steps), steps, case.io["x"])


@pytest.mark.parametrize("name", ["dsmoe", "jit_moe"])
def test_recorded_experts(name):
    """The experts of every token of the images at one time, without those of the context."""
    case, routes, taps = Case(name), load_file(FIXTURES / name / "routes.safetensors"), {}
    out, layers = case.pipe.model.forward(case.io["x"], np.full(3, 0.48), case.labels, taps=taps)
    assert error(out, routes["out"]) < TOLERANCE
    assert [f"blocks.{layer.block}.selected" for layer in layers] == sorted(routes.keys() - {"out"})
    for layer in layers:
        wanted = routes[f"blocks.{layer.block}.selected"]
        assert np.array_equal(layer.taken, wanted) and layer.gate.shape == wanted.shape
        assert np.array_equal(taps[f"blocks.{layer.block}.k"], wanted.sum(0))


@pytest.mark.parametrize("name", ["t2i_tiny", "t2i_bpe"])
def test_token_ids_of_prompts(name):
    case = Case(name)
    prompts = [(case.settings["prompts"], "tokens"), ([case.settings["negative"]] * 3, "negative_tokens")]
    for texts, key in prompts:
        ids = [case.pipe.tokenizer.encode(text, case.pipe.config.text.max_length)[0] for text in texts]
        assert np.array_equal(ids, case.io[key])


@pytest.mark.parametrize("name", ["eurosat", "emoji", "emoji_text"])
def test_shipped_models(name):
    """Outputs of the trainer for the model files in ``assets`` (int8, f16), with equal routing sets."""
    pipe, io = Pipeline.from_pretrained(ASSETS / f"{name}.safetensors"), load_file(FIXTURES / "trained" / f"{name}.safetensors")
    labels = [io[key].astype(int) for key, _ in zip(("y", "style"), pipe.config.labels)]
    text = null_text = None
    if pipe.config.text:
        null = np.array([pipe.tokenizer.encode("", pipe.config.text.max_length)[0]] * len(io["tokens"]))
        text, null_text = (
            encode(pipe.config, pipe.model.weights, tokens, (tokens != pipe.tokenizer.pad).sum(1)) for tokens in (io["tokens"], null)
        )
    taps = {}
    out, _ = pipe.model.forward(io["x"], io["t"], labels, text, Routing("pool"), taps)
    assert error(out, io["out"]) < TOLERANCE
    sets = [key for key in io if key.endswith(".selected")]
    assert len(sets) == len(pipe.config.moe_blocks)
    for key in sets:
        assert np.array_equal(taps[key], io[key]), key
    if "heun_cfg" in io:
        run = Run(pipe.model, labels, text, null_text, guidance=2.0, routing=Routing("pool"))
        assert error(sample(run, schedulers.Heun(), 2, io["x"]), io["heun_cfg"]) < TOLERANCE


def test_an_image_does_not_depend_on_its_batch_with_the_token_rule():
    case = Case("diffmoe_flow")
    forward, io = case.pipe.model.forward, case.io
    alone = [forward(io["x"][i : i + 1], io["t"][i : i + 1], [case.labels[0][i : i + 1]])[0] for i in range(3)]
    assert error(np.concatenate(alone), forward(io["x"], io["t"], case.labels)[0]) < 1e-5
    pool = [forward(io["x"][:1], io["t"][:1], [case.labels[0][:1]], None, Routing("pool"))[0]]
    together = forward(io["x"], io["t"], case.labels, None, Routing("pool"))[0]
    assert error(pool[0], together[:1]) > 1e-3, "under the pool rule images compete"


def test_qk_norm():
    """With ``qk_norm`` the scale of queries and keys has no influence on the output; that of values has."""
    from diffmoe import Config, Model
    from diffmoe.weights import tensors

    params = {"input_size": [4, 6], "in_channels": 3, "num_classes": 2, "patch_size": 2, "depth": 1, "hidden_size": 8}
    params |= {"num_heads": 2, "qk_norm": True, "learn_sigma": False}
    config = Config.from_dict({"kind": "dense", "t_kind": "flow", "space": "pixels", "params": params})
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in tensors(config)}
    x, t, y = random.normal(size=(2, 3, 4, 6)), np.array([0.2, 0.7]), [np.array([0, 1])]
    out = Model(config, weights).forward(x, t, y)[0]
    assert out.shape == (2, 3, 4, 6)
    bias, weight = "blocks.0.attn.qkv.bias", "blocks.0.attn.qkv.weight"
    larger = {**weights, bias: weights[bias].copy(), weight: weights[weight].copy()}
    for name in (bias, weight):
        larger[name][:16] *= 100
    assert error(Model(config, larger).forward(x, t, y)[0], out) < 1e-3
    for name in (bias, weight):
        larger[name][16:] *= 2
    assert error(Model(config, larger).forward(x, t, y)[0], out) > 1e-3


def test_traces_have_the_tokens_of_the_image_only():
    pipe = Case("jit_moe").pipe
    trace = pipe(labels=[1, 7], seed=1, num_inference_steps=2, scheduler="euler", trace_scores=True, mute=[(3, 5)]).trace
    trace.check()
    assert trace.grid == (4, 4) and trace.masks.shape == (4, 2, 2 * 16) and trace.gate.shape == (4, 2, 2 * 16, 6)
    taken = trace.taken()
    assert (taken[:, 0].sum(-1) == 2).all() and not taken[:, 1, :, 5].any()


@pytest.mark.parametrize("more", [{}, {"norm_type": "rmsnorm", "rope_type": "2d", "use_swiglu": True, "swiglu_bias": True}])
def test_tokens_of_the_context(more):
    """They are the sum of a sample's labels and a position each, so their order does not matter; before their first block
    they change nothing."""
    model, (x, t, labels), _ = context_model(**more)
    taps, other = {}, {}
    out, _ = model.forward(x, t, labels, taps=taps)
    assert out.shape == (2, 3, 4, 6) and taps["blocks.1.out"].shape == (2, 6, 8)
    vectors = [model.weights[f"{name}.weight"][rows] for name, rows in zip(("subject", "style"), labels)]
    assert error(model.forward(x, t, vectors)[0], out) < 1e-6, "label vectors are those of their rows"
    position = model.weights["in_context_posemb"]
    model.weights["in_context_posemb"] = position[:, ::-1]
    assert error(model.forward(x, t, labels)[0], out) < 1e-5
    model.weights["in_context_posemb"] = 2 * position
    changed, _ = model.forward(x, t, labels, taps=other)
    assert error(changed, out) > 1e-3 and np.array_equal(other["blocks.0.out"], taps["blocks.0.out"])


def test_root_mean_square_norms_of_queries_and_keys():
    """``x / sqrt(mean(x²) + eps)`` times a weight: with an eps far above the squares, queries keep their proportions."""
    more = {"norm_type": "rmsnorm", "qk_norm": True, "context_tokens": 0}
    plain, (x, t, labels), _ = context_model(**more | {"qk_norm": False})
    normed, *_ = context_model(**more | {"qk_norm_eps": 1e6})
    weights = {f"blocks.{i}.attn.{part}.weight": np.full(4, 1e3, np.float32) for i in range(2) for part in ("q_norm", "k_norm")}
    normed.weights = plain.weights | weights
    assert error(normed.forward(x, t, labels)[0], plain.forward(x, t, labels)[0]) < 1e-3
