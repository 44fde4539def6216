"""An ONNX graph while it is written, and the layers of ``diffmoe.layers`` as nodes of it."""

from __future__ import annotations

import numpy as np


class Graph:
    """Nodes and constants of a graph. Values are referred to by name."""

    def __init__(self, tensors: dict[str, np.ndarray]):
        import onnx

        self.onnx, self.tensors = onnx, tensors
        self.nodes: list = []
        self.constants: dict[str, object] = {}

    def constant(self, value, name: str | None = None, dtype=np.float32) -> str:
        name = name or f"constant_{len(self.constants)}"
        if name not in self.constants:
            self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value, dtype), name)
        return name

    def shape(self, *sizes: int) -> str:
        """A shape constant for Reshape: 0 keeps a dimension, -1 is inferred."""
        return self.constant(sizes, f"shape_{'_'.join(map(str, sizes))}", np.int64)

    def weight(self, name: str) -> str:
        return self.constant(self.tensors[name], name)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes):
        names = [f"{kind}_{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), names, **attributes))
        return names if outputs > 1 else names[0]

    def linear(self, name: str, x: str) -> str:
        y = self.op("MatMul", x, self.constant(self.tensors[f"{name}.weight"].T, f"{name}.weight.T"))
        return self.op("Add", y, self.weight(f"{name}.bias")) if f"{name}.bias" in self.tensors else y

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def normal(self, x: str, width: int, eps: float, name: str | None = None) -> str:
        """Layer norm over the last axis; with the weight and bias of ``name``, or without."""
        ones, zeros = np.ones(width), np.zeros(width)
        scale = self.weight(f"{name}.weight") if name else self.constant(ones, f"ones_{width}")
        bias = self.weight(f"{name}.bias") if name else self.constant(zeros, f"zeros_{width}")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    def rms_normal(self, x: str, eps: float, name: str | None = None) -> str:
        """Root-mean-square norm over the last axis; with the weight of ``name``, or without."""
        square = self.op("ReduceMean", self.op("Mul", x, x), self.shape(-1), keepdims=1)
        y = self.op("Div", x, self.op("Sqrt", self.op("Add", square, self.constant(eps, f"eps_{eps}"))))
        return self.op("Mul", y, self.weight(f"{name}.weight")) if name else y

    def split(self, x: str, parts: int) -> list[str]:
        return self.op("Split", x, axis=-1, num_outputs=parts, outputs=parts)

    def heads(self, x: str, parts: int, count: int, width: int) -> list[str]:
        """``[B, T, parts·H·d]`` to ``parts`` values ``[B, H, T, d]``."""
        by_head = self.shape(0, 0, count, width)
        rows = self.split(x, parts) if parts > 1 else [x]
        return [self.op("Transpose", self.op("Reshape", part, by_head), perm=[0, 2, 1, 3]) for part in rows]

    def attend(self, q: str, k: str, v: str, count: int, width: int, bias: str | None = None) -> str:
        """``softmax(q·kᵀ/√d + bias)·v`` for all heads ``[B, H, T, d]``, concatenated to ``[B, T, H·d]``."""
        scores = self.op("Mul", self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2])), self.constant(width**-0.5))
        scores = scores if bias is None else self.op("Add", scores, bias)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        return self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.shape(0, 0, count * width))

    def padding(self, mask: str) -> str:
        """What is added to attention scores: 0 at tokens, -inf at padding ``[B, 1, 1, L]``."""
        is_padding = self.op("Equal", mask, self.constant(0, "padding", np.int64))
        bias = self.op("Where", is_padding, self.constant(-np.inf, "masked"), self.constant(0.0, "zero"))
        return self.op("Unsqueeze", bias, self.shape(1, 2))

    def ffn(self, name: str, x: str, act: str = "gelu") -> str:
        if f"{name}.gate_proj.weight" in self.tensors:
            gate = self.silu(self.linear(f"{name}.gate_proj", x))
            return self.linear(f"{name}.down_proj", self.op("Mul", gate, self.linear(f"{name}.up_proj", x)))
        hidden = self.linear(f"{name}.fc1", x)
        hidden = self.silu(hidden) if act == "silu" else self.op("Gelu", hidden, approximate="tanh")
        return self.linear(f"{name}.fc2", hidden)
