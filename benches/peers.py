"""The same forward pass in ONNX Runtime and PyTorch, to compare the CPU engine with.

    python benches/peers.py MODEL.safetensors [--batch 2] [--rust target/release/deps/forward-…]
    python benches/peers.py --make mini|s-e16 MODEL.safetensors      # a model with random weights

Needs numpy, onnx, onnxruntime and safetensors. PyTorch is included if torch and the package in `python/` are installed.
ONNX Runtime runs the graphs of `onnx_forward.py`. PyTorch runs the trainer's model, which computes all experts of a layer in
batched products: eager and with `torch.compile`, in f32 and in bf16 (autocast). With `--rust`, the benchmark program takes
turns with them on the same input. All f32 outputs must agree.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime as ort
from safetensors import safe_open
from safetensors.numpy import load_file

import random_weights
from onnx_forward import Graph, forms

PEERS = ("ONNX Runtime", "PyTorch")


def onnx_ways(config, w, inputs, batch, threads):
    """{name: a function that computes the output}"""
    def way(session):
        return lambda: session.run(["out"], inputs)[0]

    return {f"ONNX Runtime {moe}, {attention} attention": way(Graph(config, w, batch, moe, attention).session(threads))
            for moe, attention in forms(config)}


def torch_ways(path, inputs, threads):
    """As ``onnx_ways``; empty if PyTorch or the package is not installed."""
    try:
        import torch
        from diffmoe.train.exported import load_exported
    except ImportError as error:
        print(f"PyTorch is left out: {error}")
        return {}
    torch.set_num_threads(threads)
    model, _ = load_exported(path)
    model.set_rule("pool")
    values = [torch.from_numpy(inputs[name]) for name in ("x", "t")]
    labels = [torch.from_numpy(inputs[f"y{n}"]) for n in range(len(inputs) - 2)]

    def way(run, bf16):
        @torch.inference_mode()
        def once():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return run(*values, labels)[0].float().numpy()

        return once

    compiled = torch.compile(model)
    return {f"PyTorch {name}, {kind}": way(run, kind == "bf16")
            for name, run in (("eager", model), ("compiled", compiled)) for kind in ("f32", "bf16")}


def rust_once(program, model, batch, runs, threads):
    """(median in ms, device, output, tokens of each expert by layer) of a run of the benchmark program."""
    with tempfile.TemporaryDirectory() as folder:
        dump = os.path.join(folder, "taps.safetensors")
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        text = subprocess.run([program, model, str(batch), str(runs), dump], env=environment, check=True,
                              capture_output=True, text=True).stdout
        taps = load_file(dump)
    counts = [taps[key].sum() for key in taps if key.endswith(".k")]
    result = json.loads(text)
    return result["median_ms"], result["device"], taps["out"], counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--make", choices=random_weights.PRESETS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("RAYON_NUM_THREADS", 2)))
    parser.add_argument("--runs", type=int, default=10, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rust", help="the benchmark program `forward`")
    args = parser.parse_args()
    if args.make:
        return random_weights.random_model(args.make, args.model)
    with safe_open(args.model, "numpy") as file:
        config = json.loads(file.metadata()["diffmoe"])
    w = {name: value.astype(np.float32) for name, value in load_file(args.model).items()}
    inputs = random_weights.sample_inputs(config, args.batch)
    ways = onnx_ways(config, w, inputs, args.batch, args.threads)
    ways |= torch_ways(args.model, inputs, args.threads)
    outs = {name: once() for name, once in ways.items()}
    first = next(iter(outs.values()))
    times = {name: [] for name in ways}
    rust, device, counts = [], "", []
    for _ in range(args.rounds):
        for name, once in ways.items():
            once()
            for _ in range(args.runs):
                begin = time.perf_counter()
                once()
                times[name].append((time.perf_counter() - begin) * 1e3)
        if args.rust:
            median, device, outs["here"], counts = rust_once(args.rust, args.model, args.batch, args.runs, args.threads)
            rust.append(median)
    best = {peer: min((np.median(t) for name, t in times.items() if name.startswith(peer)), default=None) for peer in PEERS}
    if rust:
        times["here"] = rust
    if counts:
        tokens = args.batch * (config["params"]["input_size"] // config["params"]["patch_size"]) ** 2
        print(f"mean capacity {sum(counts) / tokens / len(counts):.3f}")
    print(f"{os.path.basename(args.model)}: batch {args.batch}, {args.threads} threads, ONNX Runtime {ort.__version__};"
          f" here: {device}")
    for name, t in times.items():
        error = np.abs(outs[name] - first).max() / np.abs(first).max()
        print(f"{name:38} median {np.median(t):8.2f} ms, fastest {min(t):8.2f}, relative difference {error:.1e}")
        if error > 1e-3 and "bf16" not in name:
            raise SystemExit(f"{name} disagrees")
    for peer, median in best.items():
        if rust and median:
            print(f"{median / np.median(rust):.2f}x the speed of the fastest way of {peer}")


if __name__ == "__main__":
    main()
