"""Tiny models of many architectures of transformers, with random weights."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from backends.transformers import kinds

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "head_dim": 16,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "n_ctx": 128,
    "n_inner": 96,
    "d_model": 64,
    "n_layers": 2,
    "n_heads": 4,
    "max_seq_len": 128,
    "ffn_dim": 96,
    "word_embed_proj_dim": 64,
    "num_layers": 2,
    "num_heads": 4,
    "rotary_dim": 8,
    "moe_intermediate_size": 48,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "shared_expert_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "state_size": 8,
    "mamba_d_state": 8,
    "mamba_d_head": 16,
    "mamba_n_heads": 8,
    "mamba_chunk_size": 16,
    "chunk_size": 16,
    "attention_hidden_size": 64,
    "sliding_window": 16,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
"""By the names that architectures have for them; windows of 16 are crossed by requests of 20 + 12 tokens."""

_NAMES = """
    afmoe apertus apertus1p5_text arcee aria_text beam biogpt bitnet codegen cohere cohere2 cohere2_moe cwm deepseek_v2
    deepseek_v4 diffllama doge dots1 ernie4_5 ernie4_5_moe exaone exaone4 exaone_moe falcon falcon_mamba flex_olmo flint
    gemma gemma2 gemma3_text gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite gpt-sw3 gpt2 gpt_bigcode gpt_neox
    gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text
    hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna lara_mini
    lfm2 lfm3 llama llama4_text mellum mimo_v2_flash minicpm3 minimax minimax_m2 minimax_m3_vl_text ministral ministral3
    mistral mixtral modernbert-decoder moshi nanochat nemotron olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt
    persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe rwkv sarvam_mla sarvam_moe seed_oss smollm3 solar_open
    stablelm starcoder2 vaultgemma xglm
"""
BY_SIZE = _NAMES.split()
"""Types whose configuration takes some of ``SIZES`` and is otherwise at its defaults."""

ENCODERS = ("bert", "camembert", "electra", "ernie", "megatron-bert", "rembert", "roberta", "roformer", "xlm-roberta")


def _text(**more: object) -> dict[str, object]:
    names = "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size"
    return {name: SIZES[name] for name in (*names.split(), "max_position_embeddings")} | more


def _mrope() -> dict[str, object]:
    return _text(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]})


def _vision(**more: object) -> dict[str, object]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return {**sizes, "image_size": 28, "patch_size": 14, **more}


_QWEN_IDS = {"image_token_id": 290, "video_token_id": 291, "vision_start_token_id": 292, "vision_end_token_id": 293}
_QWEN_VISION = {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}


def _longrope() -> dict[str, object]:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0 + i for i in range(8)], "factor": 6.4}
    rope = dict(rope_type="longrope", rope_theta=1e4, original_max_position_embeddings=20, **factors)
    return _text(original_max_position_embeddings=20, rope_parameters=rope, pad_token_id=0)


SPECIAL = {
    "bamba": lambda: transformers.BambaConfig(**_text(attn_layer_indices=[1]), **_MAMBA2),
    "bloom": lambda: transformers.BloomConfig(vocab_size=300, hidden_size=64, n_layer=2, n_head=4),
    "mpt": lambda: transformers.MptConfig(vocab_size=300, d_model=64, n_layers=2, n_heads=4, max_seq_len=128),
    "mamba": lambda: transformers.MambaConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2, state_size=8),
    "mamba2": lambda: transformers.Mamba2Config(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=2,
        state_size=8,
        num_heads=8,
        head_dim=16,
        n_groups=1,
        chunk_size=16,
    ),
    "phi3 with longrope": lambda: transformers.Phi3Config(**_longrope()),
    "mistral3": lambda: transformers.Mistral3Config(
        text_config=dict(model_type="mistral", sliding_window=None, head_dim=16, **_text()),
        vision_config=dict(model_type="pixtral", head_dim=16, **_vision()),
        image_token_index=290,
    ),
    "llava": lambda: transformers.LlavaConfig(
        text_config=dict(model_type="llama", **_text()),
        vision_config=dict(model_type="clip_vision_model", **_vision()),
        image_token_index=290,
    ),
    "paligemma": lambda: transformers.PaliGemmaConfig(
        text_config=dict(model_type="gemma", head_dim=16, **_text()),
        vision_config=dict(model_type="siglip_vision_model", **_vision(projection_dim=64)),
        image_token_index=290,
        projection_dim=64,
    ),
    "gemma3": lambda: transformers.Gemma3Config(
        text_config=_text(head_dim=16, sliding_window=16),
        vision_config=_vision(),
        image_token_index=290,
        mm_tokens_per_image=4,
    ),
    "qwen2_vl": lambda: transformers.Qwen2VLConfig(
        text_config=_mrope(),
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
        **_QWEN_IDS,
    ),
    "qwen2_5_vl": lambda: transformers.Qwen2_5_VLConfig(text_config=_mrope(), vision_config=_QWEN_VISION, **_QWEN_IDS),
    "qwen3_vl": lambda: transformers.Qwen3VLConfig(
        text_config=_mrope() | {"head_dim": 16},
        vision_config=_QWEN_VISION | {"deepstack_visual_indexes": [0]},
        **_QWEN_IDS,
    ),
}
"""Configurations that need more than sizes."""


def tiny_config(kind: str) -> transformers.PreTrainedConfig:
    """The configuration of a tiny model of a type, or of one of ``SPECIAL``."""
    if kind in SPECIAL:
        return SPECIAL[kind]()
    made = CONFIG_MAPPING[kind]
    known = set(inspect.signature(made.__init__).parameters) | set(vars(made()))
    sizes = {name: value for name, value in SIZES.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention has as many heads of keys as of queries
        sizes["num_key_value_heads"] = SIZES["num_attention_heads"]
    return made(**sizes)


def save_tiny(kind: str, folder: Path) -> None:
    """Write a tiny model whose tokens depend on all of their context: its matrices are larger than usual."""
    torch.manual_seed(0)
    config = tiny_config(kind)
    model = kinds.auto_class(config).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and name.endswith("weight") and weight.shape[0] > 4:
                weight.normal_(0, 1.5 * weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
