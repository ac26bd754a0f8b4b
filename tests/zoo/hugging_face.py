"""Architectures of transformers, from configurations made small."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from tests.zoo.registry import WIDE, Built, architecture, opened, require

SMALL: dict[str, Any] = {
    # widths
    "hidden_size": 16, "d_model": 16, "n_embd": 16, "dim": 16, "embed_dim": 16, "embedding_size": 16,
    "embedding_dim": 16, "emb_dim": 16, "hidden_dim": 16, "d_embed": 16, "projection_dim": 8, "rnn_hidden_dim": 16,
    "attention_hidden_size": 16, "output_hidden_size": 16, "decoder_hidden_size": 16, "encoder_hidden_size": 16,
    "text_embed_dim": 16, "project_dim": 16, "out_hidden_size": 16, "proj_hidden_size": 16, "n_hidden": 16,
    "intermediate_size": 24, "ffn_dim": 24, "d_ff": 24, "d_inner": 24, "n_inner": 24, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "feed_forward_size": 24, "mlp_dim": 24, "ffn_hidden_size": 24, "dim_feedforward": 24,
    "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "expert_ffn_hidden_size": 8,
    "intermediate_size_mlp": 24, "decoder_intermediate_size": 24, "encoder_intermediate_size": 24,
    # depths
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_encoder_layers": 2, "num_decoder_layers": 2, "depth": 2, "text_layers": 1, "num_blocks": 2,
    "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "num_local_layers": 1,
    # heads
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "d_kv": 8, "d_head": 8, "kv_channels": 8,
    "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2, "encoder_num_key_value_heads": 2,
    "decoder_num_key_value_heads": 2, "attention_head_dim": 8, "attention_head_size": 8,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_num_experts": 4,
    "moe_k": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "router_dim": 8,
    # low-rank attention
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    # state spaces
    "state_size": 4, "mamba_d_state": 4, "mamba_d_conv": 4, "mamba_n_heads": 4, "mamba_d_head": 8, "conv_kernel": 4,
    "mamba_chunk_size": 4, "chunk_size": 4, "mamba_expand": 2, "mamba_n_groups": 1,
    # linear attention
    "linear_head_dim": 8, "linear_num_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    # inputs
    "vocab_size": 40, "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64,
    "max_source_positions": 64, "max_target_positions": 64, "image_size": 32, "img_size": 32, "patch_size": 8,
    "num_channels": 3, "type_vocab_size": 2, "num_mel_bins": 8, "max_length": 16, "pretrain_image_size": 32,
    "num_frames": 4, "tubelet_size": 2, "window_size": 4, "sliding_window": 4, "num_labels": 3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 0, "unk_token_id": 0,
    "relative_attention_num_buckets": 8, "num_buckets": 4, "num_queries": 5, "use_timm_backbone": False,
}  # fmt: skip


def tiny_config(kind: str | type, **options: Any) -> Any:
    """The configuration of a model type with small numbers wherever it has them; `options` win."""
    transformers = require("transformers")
    cls = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind] if isinstance(kind, str) else kind
    known = set(inspect.signature(cls.__init__).parameters) | set(getattr(cls, "__dataclass_fields__", ()))
    given = {k: v for k, v in SMALL.items() if k in known}
    for name, part in getattr(cls, "sub_configs", {}).items():
        if isinstance(options.get(name), dict) and part.__name__ != "AutoConfig":
            options[name] = tiny_config(part, **options[name]).to_dict()
        elif name not in options and part.__name__ != "AutoConfig":
            given[name] = tiny_config(part).to_dict()
    if "use_cache" in known:
        given["use_cache"] = False
    return cls(**{**given, **options})


def dummy(model: Any) -> dict[str, torch.Tensor]:
    """An input by the name that the model gives it."""
    name = model.main_input_name
    config = model.config
    size = getattr(config, "image_size", None) or 32
    size = size if isinstance(size, int) else size[0]
    if name == "pixel_values":
        return {name: torch.randn(1, getattr(config, "num_channels", 3) or 3, size, size)}
    if name == "input_features":
        return {name: torch.randn(1, getattr(config, "num_mel_bins", 8), 128)}
    if name == "input_values":
        return {name: torch.randn(1, 640)}
    ids = torch.randint(3, 40, (1, 8))
    if getattr(config, "is_encoder_decoder", False):
        return {"input_ids": ids, "decoder_input_ids": torch.randint(3, 40, (1, 5))}
    return {"input_ids": ids}


# model types whose configuration can be made small by name alone
PLAIN = """
    afmoe aimv2_vision_model albert apertus arcee aria_text axk1 bailing_hybrid bamba bart beit
    bert-generation big_bird bigbird_pegasus biogpt bitnet blenderbot bloom camembert canine cohere cohere2
    cohere2_moe convbert ctrl data2vec-text data2vec-vision deberta deberta-v2 deepseek_v2 deepseek_v3
    deepseek_v4 deit dinov2 dinov2_with_registers dinov3_vit doge dots1 dpr dpt electra embedding_gemma2_text
    ernie ernie4_5 ernie4_5_moe esm eurobert exaone4 exaone_moe falcon falcon_mamba flaubert flava flex_olmo
    fnet focalnet fsmt gemma gemma2 gemma3_text gemma4_unified_text git glm glm4 glm4_moe glm4_moe_lite
    gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss granite granitemoe granitemoehybrid granitemoeshared gte
    helium hrm_text hunyuan_v1_dense hunyuan_v1_moe ibert ijepa imagegpt internlm3 internvl_vision jamba
    jetmoe kimi_linear layoutlm led lfm2 longformer longt5 m2m_100 mamba mbart megatron-bert mimo_v2_flash
    minicpm3 minimax minimax_m2 ministral mistral mistral4 mlcd mobilebert modernbert modernbert-decoder mpt
    mra mt5 mvp nanochat nemotron nllb-moe nomic_bert nystromformer olmo olmo2 olmo3 olmo_hybrid olmoe
    openai-gpt opt pegasus pegasus_x persimmon phi phi3 phimoe pixio pixtral plbart prophetnet qwen2 qwen2_moe
    qwen3 qwen3_5_text qwen3_moe qwen3_next recurrent_gemma rembert roberta roberta-prelayernorm roformer rwkv
    seed_oss smollm3 splinter squeezebert stablelm starcoder2 switch_transformers t5gemma tapas
"""
SAMPLED = frozenset({"mamba", "deberta-v2", "longformer", "jamba", "qwen3_next", "fnet", "gpt_oss"})


def automatic(kind: str, **options: Any) -> Built:
    """A model of the given type, and an input of the name that it wants."""
    transformers = require("transformers")
    model = transformers.AutoModel.from_config(tiny_config(kind, **options))
    return opened(model), dummy(model)


for _kind in PLAIN.split():
    architecture(f"transformers/{_kind}", "transformers", into=WIDE, sample=_kind in SAMPLED)(
        lambda kind=_kind: automatic(kind)
    )
