"""Which tensors of a file lose precision."""

import pytest
import torch

from diffmoe.train import export, exported
from diffmoe.train.model import DiT
from diffmoe.train.moe import to_official

INT8 = """
blocks.0.adaLN_modulation.1.weight blocks.0.attn.proj.weight blocks.0.attn.qkv.weight
blocks.0.cross_attn.kv_linear.weight blocks.0.cross_attn.proj.weight blocks.0.cross_attn.q_linear.weight
blocks.0.mlp.fc1.weight blocks.0.mlp.fc2.weight
blocks.1.adaLN_modulation.1.weight blocks.1.attn.proj.weight blocks.1.attn.qkv.weight
blocks.1.cross_attn.kv_linear.weight blocks.1.cross_attn.proj.weight blocks.1.cross_attn.q_linear.weight
blocks.1.mlp.experts.0.fc1.weight blocks.1.mlp.experts.0.fc2.weight
blocks.1.mlp.experts.1.fc1.weight blocks.1.mlp.experts.1.fc2.weight
final_layer.adaLN_modulation.1.weight
text_encoder.layers.0.attn.proj.weight text_encoder.layers.0.attn.qkv.weight
text_encoder.layers.0.mlp.fc1.weight text_encoder.layers.0.mlp.fc2.weight
""".split()


def test_int8_is_for_the_matrices_that_the_program_calls_so():
    """The names are those of ``TensorSpec::is_matrix`` in the Rust program (src/model/spec.rs)."""
    text = {"vocab_size": 40, "max_length": 5, "hidden_size": 12, "depth": 1, "num_heads": 3, "mlp_ratio": 2}
    model = DiT(8, 3, 2, 2, 16, 2, num_experts=2, prediction="data", detail_head=4, text=text,
                labels=(("y_embedder", 200, None), ("style_embedder", 3, None)))
    state = to_official(model.state_dict())
    stored = export.encode(state, "int8")
    assert sorted(k for k, w in stored.items() if w.dtype == torch.int8) == sorted(INT8)
    assert all(stored[k + ".scale"].shape == (state[k].shape[0],) for k in INT8)
    exact = sorted(k for k, w in stored.items() if w.dtype == torch.float32 and not k.endswith(".scale"))
    assert exact == sorted("blocks.1.mlp." + k for k in (
        "gate_weight", "expert_threshold", "ema_decay", "capacity_predictor.0.weight", "capacity_predictor.0.bias",
        "capacity_predictor.2.weight", "capacity_predictor.2.bias"))
    halves = {k for k, w in stored.items() if w.dtype == torch.float16}
    assert {"y_embedder.embedding_table.weight", "t_embedder.mlp.0.weight", "final_layer.linear.weight", "pos_embed",
            "x_embedder.proj.weight", "detail_head.conv_mid.weight", "text_encoder.token_embedding.weight"} <= halves


def test_a_header_says_what_the_file_is():
    """The keys are those of `diffmoe convert` (src/checkpoint/metadata.rs)."""
    meta = {"name": "tiny", "kind": "tc", "space": "pixels", "params": {"input_size": [8, 16]}, "card": {"licence": "MIT"}}
    header = export.header(meta)
    assert header.pop("diffmoe").startswith("{")
    assert header == {"format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "dit-moe-token-choice",
                      "modelspec.implementation": "diffmoe", "modelspec.title": "tiny", "modelspec.resolution": "16x8",
                      "modelspec.license": "MIT"}
    assert "modelspec.resolution" not in export.header({**meta, "space": "latents"})


@pytest.mark.parametrize(("params", "reason"), [
    ({"norm_type": "rmsnorm"}, "context tokens of JiT"), ({"swiglu_bias": True}, "context tokens of JiT"),
    ({"context_tokens": 4}, "context tokens of JiT"), ({"pos_embed": False}, "without a position embedding"),
    ({"rope_type": "2d", "norm_type": "rmsnorm"}, "2-D RoPE"), ({"prediction": "reversed"}, "whose time is reversed")])
def test_forms_that_the_trainer_lacks_are_refused(params, reason):
    with pytest.raises(ValueError, match=reason):
        exported.build({"params": params}, {}, "model.safetensors")
