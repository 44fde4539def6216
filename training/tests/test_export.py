"""What an exported file holds: which tensors lose precision, the header, and the same tensors that models are read with."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from diffmoe import Config, Model, ModelError, formats, weights, writing
from diffmoe.routing import Routing
from diffmoe.text import encode
from diffmoe.train import export
from diffmoe.train.model import DiT
from diffmoe.train.moe import from_official
from helpers import document, small_model

TEXT = {"vocab_size": 40, "max_length": 5, "hidden_size": 12, "depth": 1, "num_heads": 3}
TABLES = (("y_embedder", 200), ("style_embedder", 3))


def test_what_decides_on_routing_keeps_its_precision():
    model = small_model(labels=TABLES, text=TEXT, prediction="data", detail_head={"channels": 4}, moe={"num_experts": 2})
    stored = formats.encode(export.folded(model), "int8")
    exact = sorted(k for k, w in stored.items() if w.dtype == np.float32 and not k.endswith(formats.SCALE))
    assert exact == sorted("blocks.1.mlp." + k for k in (
        "gate_weight", "expert_threshold", "ema_decay", "capacity_predictor.0.weight", "capacity_predictor.0.bias",
        "capacity_predictor.2.weight", "capacity_predictor.2.bias"))
    halves = {k for k, w in stored.items() if w.dtype == np.float16}
    assert {"y_embedder.embedding_table.weight", "t_embedder.mlp.0.weight", "final_layer.linear.weight", "pos_embed",
            "x_embedder.proj.weight", "detail_head.conv_mid.weight", "text_encoder.token_embedding.weight"} <= halves
    assert "text_encoder.layers.0.mlp.fc1.weight" + formats.SCALE in stored


MODELS = {
    "class": document(),
    "subject and style": document(labels=TABLES, qk_norm=True, qk_norm_eps=1e-6, num_heads=4, mlp_ratio=2.5),
    "every block, SwiGLU, shared": document(use_swiglu=True, moe={"interleave": False, "n_shared_experts": 2}),
    "text": document(labels=(), text=TEXT),
    "text and style": document("dense", labels=(("style_embedder", 4),), text=TEXT),
    "wide heads": document(head_dim=12, labels=(), text=TEXT),
    "detail head": document(prediction="data", detail_head={"channels": 5}),
    "detail head with phases": document(prediction="data", detail_head={"channels": 5, "phase": True}),
    "DDPM": document(objective="ddpm", learn_sigma=True),
    "dense": document("dense"),
    "dense, SwiGLU": document("dense", use_swiglu=True),
    "token choice": document("tc", moe={"capacity": 2}),
    "token choice, shared": document("tc", use_swiglu=True, moe={"n_shared_experts": 2}),
    "expert choice": document("ec"),
    "expert choice, shared": document("ec", use_swiglu=True, moe={"n_shared_experts": 1, "interleave": False}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_modules_have_the_tensors_that_a_configuration_lists(name):
    config = Config.from_dict(MODELS[name])
    model = DiT(config)
    listed = dict(weights.tensors(config))
    tensors = export.folded(model)
    assert {k: w.shape for k, w in tensors.items()} == listed
    # Nothing is left over: what the file holds, stacked again, is the whole state of the modules.
    state = from_official({k: torch.from_numpy(w) for k, w in tensors.items()})
    assert {k: w.shape for k, w in state.items()} == {k: w.shape for k, w in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_both_forward_passes_agree(name):
    """PyTorch's, with gradients, and NumPy's, which draws images."""
    config = Config.from_dict(MODELS[name])
    torch.manual_seed(1)
    model = DiT(config).eval().requires_grad_(False)
    for w in model.parameters():
        torch.nn.init.normal_(w, std=0.1 if w.dim() == 1 else 0.9 * w[0].numel() ** -0.5)
    for m in model.dynamic_layers().values():
        torch.nn.init.uniform_(m.expert_threshold, 0.35, 0.65)
    x, t = torch.randn(3, 3, 4, 4), torch.tensor([20.0, 500.0, 980.0] if config.objective == "ddpm" else [0.1, 0.5, 0.9])
    rows = [torch.tensor([0, 2, table.null]) for table in config.labels]
    tokens, encoded, plain = [], None, export.folded(model)
    if config.text:
        ids = torch.tensor([[2, 7, 9, 3, 0], [2, 3, 0, 0, 0], [2, 30, 31, 32, 3]])
        tokens, encoded = [ids], encode(config, plain, ids.numpy(), (ids != 0).sum(1).numpy())
    theirs = model(x, t, [*rows, *tokens])[0]
    ours, _ = Model(config, plain).forward(x.numpy(), t.numpy(), [r.numpy() for r in rows], encoded, Routing("pool"))
    assert np.abs(ours - theirs.numpy()).max() < 1e-4 * np.abs(ours).max() and ours.std() > 0.1


def test_the_modules_of_a_refiner_are_those_of_its_configuration():
    whole = document(input_size=8, patch_size=4, prediction="data")
    whole["refiner"] = {"from": 0.5, "params": {**whole["params"], "patch_size": 2, "hidden_size": 12}}
    config = Config.from_dict(whole)
    parts = export.folded(DiT(config)), export.folded(DiT(config.refiner))
    stored = parts[0] | {f"refiner.{k}": w for k, w in parts[1].items()}
    assert {k: w.shape for k, w in stored.items()} == dict(weights.stored(config))


def test_the_same_model_gives_the_same_bytes(tmp_path):
    meta, tensors = document(), formats.encode(export.folded(small_model()), "int8")
    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for file in files:
        writing.write(file, meta, dict(reversed(tensors.items())) if file == files[1] else tensors)
    assert len({file.read_bytes() for file in files}) == 1
    read = load_file(files[0])
    assert read.keys() == tensors.keys() and all(np.array_equal(read[k], w) for k, w in tensors.items())
    length = int.from_bytes(files[0].read_bytes()[:8], "little")
    entries = json.loads(files[0].read_bytes()[8 : 8 + length])["__metadata__"]
    assert entries == writing.header(meta) and list(entries) == sorted(entries) and length % 8 == 0


def test_a_header_says_what_the_file_is():
    """The keys are those of `diffmoe convert` (src/checkpoint/metadata.rs)."""
    meta = document("tc", input_size=[8, 16]) | {"card": {"licence": "MIT"}}
    header = writing.header(meta)
    assert header.pop("diffmoe").startswith("{")
    assert header == {"format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "dit-moe-token-choice",
                      "modelspec.implementation": "diffmoe", "modelspec.title": "small", "modelspec.resolution": "16x8",
                      "modelspec.license": "MIT"}
    assert "modelspec.resolution" not in writing.header({**meta, "space": "latents"})


@pytest.mark.parametrize(("params", "reason"), [
    ({"norm_type": "rmsnorm"}, "context tokens of JiT"), ({"swiglu_bias": True}, "context tokens of JiT"),
    ({"context_tokens": 4, "kind": "dense"}, "context tokens of JiT"), ({"pos_embed": False}, "without a position embedding"),
    ({"rope_type": "2d", "norm_type": "rmsnorm"}, "2-D RoPE"), ({"prediction": "reversed"}, "whose time is reversed"),
    ({"input_size": [4, 8]}, "not square")])
def test_forms_that_the_trainer_lacks_are_refused(params, reason):
    with pytest.raises(ModelError, match=reason):
        small_model(**params)
