"""What several test files and scripts share."""

from diffmoe import Config
from diffmoe.train import loop
from diffmoe.train.model import DiT


def document(kind="diffmoe", text=None, labels=(("y_embedder", 10),), objective="flow", time_scale=1.0, moe=None, **params):
    """The description of a small model: 4x4 samples in patches of 2, two blocks, four experts in the second.
    ``labels``: (prefix of the tensor, number of labels) of each table; ``moe``: keys of MoE_config."""
    shape = {"input_size": 4, "in_channels": 3, "patch_size": 2, "depth": 2, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 4,
             "num_classes": labels[0][1] if labels else 0, "learn_sigma": False, "use_swiglu": False}
    experts = {} if kind == "dense" else {"MoE_config": {"num_experts": 4, "capacity": 1, "interleave": True} | (moe or {})}
    tables = [{"name": name, "tensor": f"{name}.embedding_table.weight", "null": n} for name, n in labels]
    section = {"text": {"tokenizer": {}, "mlp_ratio": 4} | text} if text else {}
    return {"name": "small", "kind": kind, "t_kind": objective, "time_scale": time_scale, "space": "pixels",
            "params": shape | experts | params, "labels": tables, **section}


def small_model(*arguments, **more):
    """A model with this description."""
    return DiT(Config.from_dict(document(*arguments, **more)))


def run_tiny(root, *more):
    """Train the made-up set; returns (checkpoint, losses in the log)."""
    loop.main([str(root / "run.toml"), "--data-root", str(root), "--out", str(root / "runs"), *more])
    rows = [r.split(",") for r in (root / "runs/tiny/log.csv").read_text().splitlines()[1:]]
    return root / "runs/tiny/last.pt", [float(r[3]) for r in rows]
