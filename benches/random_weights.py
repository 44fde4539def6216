"""Models of standard sizes with random weights, and their inputs, for `peers.py`."""

import json

import numpy as np
from safetensors.numpy import save_file

from onnx_forward import Graph, label_tables

PRESETS = {
    "mini": dict(input_size=16, depth=6, hidden_size=192, num_heads=6, num_experts=8),
    "s-e16": dict(input_size=16, depth=12, hidden_size=384, num_heads=6, num_experts=16),
}


def random_model(preset, path):
    """Writes a model file: random weights about as large as trained ones, and thresholds for a mean capacity near 1."""
    p = dict(PRESETS[preset])
    experts = p.pop("num_experts")
    params = dict(p, num_classes=10, patch_size=2, mlp_ratio=4, use_swiglu=False, learn_sigma=False,
                  MoE_config=dict(num_experts=experts, capacity=1, n_shared_experts=0, interleave=True))
    config = dict(name=preset, kind="diffmoe", t_kind="flow", time_scale=1000, null_class=10, params=params)
    d, side = p["hidden_size"], p["input_size"] // 2
    rng = np.random.default_rng(0)
    w = {}

    def linear(name, out, inp):
        w[f"{name}.weight"] = (rng.standard_normal((out, inp)) * (2 / (out + inp)) ** 0.5).astype(np.float32)
        w[f"{name}.bias"] = (rng.standard_normal(out) * 0.02).astype(np.float32)

    def ffn(name):
        linear(f"{name}.fc1", 4 * d, d)
        linear(f"{name}.fc2", d, 4 * d)

    omega = 10000.0 ** -(np.arange(d // 4) / (d / 4))
    sincos = lambda v: np.concatenate([np.sin(v * omega), np.cos(v * omega)])
    grid = [np.concatenate([sincos(c), sincos(r)]) for r in range(side) for c in range(side)]
    w["pos_embed"] = np.array(grid, np.float32)[None]
    linear("x_embedder.proj", d, 16)
    w["x_embedder.proj.weight"] = w["x_embedder.proj.weight"].reshape(d, 4, 2, 2)
    linear("t_embedder.mlp.0", d, 256)
    linear("t_embedder.mlp.2", d, d)
    w["y_embedder.embedding_table.weight"] = rng.standard_normal((11, d)).astype(np.float32)
    for i in range(p["depth"]):
        linear(f"blocks.{i}.attn.qkv", 3 * d, d)
        linear(f"blocks.{i}.attn.proj", d, d)
        linear(f"blocks.{i}.adaLN_modulation.1", 6 * d, d)
        mlp = f"blocks.{i}.mlp"
        if i % 2 == 0:
            ffn(mlp)
            continue
        w[f"{mlp}.gate_weight"] = (rng.standard_normal((experts, d)) * 0.1).astype(np.float32)
        w[f"{mlp}.expert_threshold"] = np.full(experts, 0.5, np.float32)
        w[f"{mlp}.ema_decay"] = np.array([0.95], np.float32)
        for j in range(experts):
            ffn(f"{mlp}.experts.{j}")
        linear(f"{mlp}.capacity_predictor.0", d, d)
        linear(f"{mlp}.capacity_predictor.2", experts, d)
    linear("final_layer.linear", 16, d)
    linear("final_layer.adaLN_modulation.1", 2 * d, d)
    # A layer's routing changes what the layers behind it see, so thresholds settle one layer a round.
    moe = [i for i in range(p["depth"]) if i % 2]
    inputs = sample_inputs(config, 2)
    for _ in moe:
        graph = Graph(config, w, 2, "gather", "plain", taps=True)
        values = dict(zip(graph.outputs, graph.session().run(None, inputs)))
        for i in moe:
            w[f"blocks.{i}.mlp.expert_threshold"] = np.quantile(
                values[f"capacity.{i}"], 1 - 1 / experts, axis=0).astype(np.float32)
    save_file(w, path, {"diffmoe": json.dumps(config)})


def sample_inputs(config, batch):
    params = config["params"]
    shape = (batch, params.get("in_channels", 4), params["input_size"], params["input_size"])
    x = np.sin(0.9 * np.arange(np.prod(shape), dtype=np.float64) + 0.1).astype(np.float32).reshape(shape)
    inputs = dict(x=x, t=np.full(batch, 0.45, np.float32))
    for n, table in enumerate(label_tables(config)):
        inputs[f"y{n}"] = np.arange(batch, dtype=np.int64) % max(table["null"], 1)
    return inputs
