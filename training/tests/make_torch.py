"""Writes the tiny PyTorch files of ../tests/fixtures/torch for the importer.

    python tests/make_torch.py ../tests/fixtures/torch
"""

import argparse
import os
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import checkout  # noqa: F401 - finds the package
from diffmoe import Config
from diffmoe.train.model import DiT

YAML = """\
basic:
  exp_name: tiny_dense
  rf: true
model:
  target: models.models_DiT.DiT
  params:
    input_size: 4
    num_classes: 3
    patch_size: 2
    depth: 1
    hidden_size: 16
    num_heads: 2
    mlp_ratio: 2
    use_swiglu: false
"""


class Hostile:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


def main(folder):
    torch.manual_seed(0)
    doc = ('{"name":"expected","kind":"dense","t_kind":"flow","null_class":3,"params":{"input_size":4,"num_classes":3,'
           '"patch_size":2,"depth":1,"hidden_size":16,"num_heads":2,"mlp_ratio":2}}')
    model = DiT(Config.from_json(doc))
    state = {k: torch.randn_like(v) if k != "pos_embed" else v.detach() for k, v in model.state_dict().items()}
    # Exact in half precision, so that the expected numbers are, too.
    state["x_embedder.proj.bias"] = state["x_embedder.proj.bias"].half()
    expected = {k: v.float().contiguous() for k, v in state.items()}
    odd = dict(state)
    odd["t_embedder.mlp.2.weight"] = state["t_embedder.mlp.2.weight"].t().contiguous().t()
    shared = torch.cat([state["final_layer.linear.bias"], state["blocks.0.attn.qkv.bias"]])
    odd["final_layer.linear.bias"] = shared[:32]
    odd["blocks.0.attn.qkv.bias"] = shared[32:]
    halved = {k: v / 2 if k != "pos_embed" else v for k, v in state.items()}
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    run = {"model": {k: torch.nn.Parameter(v.float()) for k, v in halved.items()}, "ema": odd}
    run["opt"] = {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    run["args"] = argparse.Namespace(global_seed=1234, results_dir="runs", cfg=None)
    torch.save(run, folder / "checkpoints/0000002.pt")
    torch.save({"ema": {}, "model": {}}, folder / "checkpoints/0000001.pt")
    (folder / "config.yaml").write_text(YAML)
    torch.save(odd, folder / "bare.pt")
    torch.save({"ema": Hostile()}, folder / "hostile.pt")
    save_file(expected, folder / "expected.safetensors", {"diffmoe": doc})
    for f in folder.rglob("*.pt"):
        print(f, f.stat().st_size, len(zipfile.ZipFile(f).namelist()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
