"""A DiffMoE model as a graph of ONNX operators, for `peers.py`.

The layer of experts has two forms, because neither is always the faster: `gather` (TopK with the predicted k, gather,
expert, scatter-add: the work of the official code) and `dense` (every expert sees every token, unchosen ones are multiplied
by 0). Attention has two as well: plain ONNX operators, or ONNX Runtime's fused operator.
"""

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def label_tables(config):
    null = config.get("null_class", config["params"]["num_classes"])
    return config.get("labels") or [dict(tensor="y_embedder.embedding_table.weight", null=null)]


class Graph:
    """Builds the graph operator by operator; methods return names of values."""

    def __init__(self, config, w, batch, moe, attention, taps=False):
        self.nodes, self.constants, self.w, self.count = [], [], w, 0
        self.batch, self.moe_form, self.attention_form, self.taps = batch, moe, attention, taps
        p = self.params = config["params"]
        if p.get("use_swiglu") or config["kind"] not in ("diffmoe", "dense"):
            raise SystemExit("only DiffMoE and dense models with GELU networks")
        self.d, self.heads = p["hidden_size"], p["num_heads"]
        self.head_dim = p.get("head_dim") or self.d // self.heads
        self.side = p["input_size"] // p["patch_size"]
        self.tokens = self.side**2
        self.pool = batch * self.tokens
        self.config, self.outputs = config, ["out"]
        self.build()

    def const(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def ints(self, *values):
        return self.const(np.array(values), np.int64)

    def op(self, kind, *inputs, outputs=1, name=None, domain="", **attributes):
        self.count += 1
        names = [name] if name else [f"v{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def linear(self, x, prefix):
        weight, bias = (self.const(self.w[f"{prefix}.{part}"]) for part in ("weight", "bias"))
        return self.op("Gemm", x, weight, bias, transB=1)

    def silu(self, x):
        return self.op("Mul", x, self.op("Sigmoid", x))

    def ffn(self, x, prefix):
        hidden = self.op("Gelu", self.linear(x, f"{prefix}.fc1"), approximate="tanh")
        return self.linear(hidden, f"{prefix}.fc2")

    def per_token(self, value):
        """[B, D] as [B, 1, D]."""
        return self.op("Reshape", value, self.ints(self.batch, 1, self.d))

    def modulated(self, x, shift, scale):
        """LN(x)(1 + scale) + shift as [S, D]; x is [B, T, D]."""
        norm = self.op("LayerNormalization", x, self.const(np.ones(self.d)), axis=-1, epsilon=1e-6)
        scale = self.op("Add", self.per_token(scale), self.const(np.ones(1)))
        moved = self.op("Add", self.op("Mul", norm, scale), self.per_token(shift))
        return self.op("Reshape", moved, self.ints(self.pool, self.d))

    def gated(self, x, gate, y):
        y = self.op("Reshape", y, self.ints(self.batch, self.tokens, self.d))
        return self.op("Add", x, self.op("Mul", self.per_token(gate), y))

    def attention(self, h, prefix):
        b, t, n, width = self.batch, self.tokens, self.heads, self.head_dim
        qkv = self.linear(h, f"{prefix}.qkv")
        if self.attention_form == "fused":
            qkv = self.op("Reshape", qkv, self.ints(b, t, 3 * n * width))
            q, k, v = self.op("Split", qkv, outputs=3, axis=-1, num_outputs=3)
            mixed = self.op("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=n)
        else:
            qkv = self.op("Reshape", qkv, self.ints(b, t, 3, n, width))
            q, k, v = self.op("Split", qkv, outputs=3, axis=2, num_outputs=3)
            part = lambda x, perm: self.op(
                "Transpose", self.op("Reshape", x, self.ints(b, t, n, width)), perm=perm)
            q = self.op("Mul", part(q, [0, 2, 1, 3]), self.const(np.array(width**-0.5)))
            scores = self.op("Softmax", self.op("MatMul", q, part(k, [0, 2, 3, 1])), axis=-1)
            mixed = self.op("MatMul", scores, part(v, [0, 2, 1, 3]))
            mixed = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.op("Reshape", mixed, self.ints(self.pool, n * width))
        return self.linear(mixed, f"{prefix}.proj")

    def moe(self, h, i):
        mlp, experts = f"blocks.{i}.mlp", self.params["MoE_config"]["num_experts"]
        if self.params["MoE_config"].get("n_shared_experts"):
            raise SystemExit("no shared experts")
        gate = self.op("Softmax", self.op("MatMul", h, self.const(self.w[f"{mlp}.gate_weight"].T)), axis=-1)
        hidden = self.silu(self.linear(h, f"{mlp}.capacity_predictor.0"))
        name = f"capacity.{i}" if self.taps else None
        capacity = self.op("Sigmoid", self.linear(hidden, f"{mlp}.capacity_predictor.2"), name=name)
        if self.taps:
            self.outputs.append(name)
        above = self.op("Greater", capacity, self.const(self.w[f"{mlp}.expert_threshold"]))
        k = self.op("ReduceSum", self.op("Cast", above, to=TensorProto.INT64), self.ints(0), keepdims=0)
        ks = self.op("Split", k, outputs=experts, axis=0, num_outputs=experts)
        gates = self.op("Transpose", gate, perm=[1, 0])
        rows = self.op("Split", gates, outputs=experts, axis=0, num_outputs=experts)
        y = self.const(np.zeros((self.pool, self.d)))
        for e in range(experts):
            row = self.op("Reshape", rows[e], self.ints(self.pool))
            best, index = self.op("TopK", row, ks[e], outputs=2, axis=0, sorted=0)
            if self.moe_form == "gather":
                part = self.ffn(self.op("Gather", h, index, axis=0), f"{mlp}.experts.{e}")
                part = self.op("Mul", part, self.op("Unsqueeze", best, self.ints(1)))
                y = self.op("ScatterND", y, self.op("Unsqueeze", index, self.ints(1)), part, reduction="add")
            else:
                weight = self.op("ScatterElements", self.const(np.zeros(self.pool)), index, best, axis=0)
                part = self.ffn(h, f"{mlp}.experts.{e}")
                y = self.op("Add", y, self.op("Mul", part, self.op("Unsqueeze", weight, self.ints(1))))
        return y

    def build(self):
        p, d, b, w = self.params, self.d, self.batch, self.w
        patch = p["patch_size"]
        x = self.op("Conv", "x", self.const(w["x_embedder.proj.weight"]), self.const(w["x_embedder.proj.bias"]),
                    strides=[patch, patch])
        x = self.op("Transpose", self.op("Reshape", x, self.ints(b, d, self.tokens)), perm=[0, 2, 1])
        x = self.op("Add", x, self.const(w["pos_embed"]))
        frequencies = np.exp(-np.log(10000.0) * np.arange(128) / 128) * self.config.get("time_scale", 1)
        angle = self.op("Mul", self.op("Reshape", "t", self.ints(b, 1)), self.const(frequencies[None]))
        c = self.op("Concat", self.op("Cos", angle), self.op("Sin", angle), axis=1)
        c = self.linear(self.silu(self.linear(c, "t_embedder.mlp.0")), "t_embedder.mlp.2")
        tables = label_tables(self.config)
        for n, table in enumerate(tables):
            c = self.op("Add", c, self.op("Gather", self.const(w[table["tensor"]]), f"y{n}", axis=0))
        c = self.silu(c)
        modulation = lambda name, parts: self.op(
            "Split", self.linear(c, name), outputs=parts, axis=1, num_outputs=parts)
        moe = p.get("MoE_config") or {}
        for i in range(p["depth"]):
            m = modulation(f"blocks.{i}.adaLN_modulation.1", 6)
            x = self.gated(x, m[2], self.attention(self.modulated(x, m[0], m[1]), f"blocks.{i}.attn"))
            h = self.modulated(x, m[3], m[4])
            routed = self.config["kind"] == "diffmoe" and (i % 2 == 1 or not moe.get("interleave", True))
            x = self.gated(x, m[5], self.moe(h, i) if routed else self.ffn(h, f"blocks.{i}.mlp"))
        m = modulation("final_layer.adaLN_modulation.1", 2)
        y = self.linear(self.modulated(x, m[0], m[1]), "final_layer.linear")
        channels = w["final_layer.linear.bias"].size // patch**2
        y = self.op("Reshape", y, self.ints(b, self.side, self.side, patch, patch, channels))
        y = self.op("Transpose", y, perm=[0, 5, 1, 3, 2, 4])
        self.op("Reshape", y, self.ints(b, channels, p["input_size"], p["input_size"]), name="out")
        size = p["input_size"]
        value = helper.make_tensor_value_info
        inputs = [value("x", TensorProto.FLOAT, [b, p.get("in_channels", 4), size, size]),
                  value("t", TensorProto.FLOAT, [b])]
        inputs += [value(f"y{n}", TensorProto.INT64, [b]) for n in range(len(tables))]
        outputs = [value(name, TensorProto.FLOAT, None) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "forward", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        self.model = helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def session(self, threads=2):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return ort.InferenceSession(self.model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def forms(config):
    """(layer of experts, attention) of each graph that is tried."""
    experts = ("gather", "dense") if config["kind"] == "diffmoe" else ("gather",)
    return [(moe, attention) for moe in experts for attention in ("plain", "fused")]
