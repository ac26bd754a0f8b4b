"""Architectures of transformers that need more than small numbers: shapes that fit together, several inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.zoo.hugging_face import automatic, tiny_config
from tests.zoo.registry import WIDE, Built, architecture, image, opened, require, tokens

FOUR: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
WINDOWS: dict[str, Any] = {
    "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 2, "patch_size": 4, "image_size": 32,
}  # fmt: skip
SPEECH: dict[str, Any] = {
    "conv_dim": (8, 8), "conv_stride": (4, 2), "conv_kernel": (6, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
}  # fmt: skip
SHAPED: dict[str, dict[str, Any]] = {
    "convnext": {**FOUR, "patch_size": 4}, "convnextv2": {**FOUR, "patch_size": 4},
    "dinov3_convnext": FOUR, "poolformer": {**FOUR, "patch_sizes": [7, 3, 3, 3]},
    "bit": {"embedding_size": 8, **FOUR, "num_groups": 4}, "resnet": {"embedding_size": 8, **FOUR},
    "regnet": {"embedding_size": 8, **FOUR, "groups_width": 4}, "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25}, "mobilevit": {"image_size": 64, "patch_size": 2},
    "swin": WINDOWS, "swinv2": WINDOWS, "donut-swin": WINDOWS, "maskformer-swin": WINDOWS,
    "swin2sr": {**WINDOWS, "patch_size": 1, "window_size": 4, "num_channels": 3, "image_size": 16},
    "segformer": {"num_attention_heads": [1, 2, 2, 2], "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
                  "mlp_ratios": [2, 2, 2, 2]},
    "pvt": {"num_attention_heads": [1, 2, 2, 2], "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
            "patch_sizes": [4, 2, 2, 2], "mlp_ratios": [2, 2, 2, 2]},
    "pvt_v2": {"num_attention_heads": [1, 2, 2, 2], "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
               "patch_sizes": [7, 3, 3, 3], "mlp_ratios": [2, 2, 2, 2]},
    "glpn": {"num_attention_heads": [1, 2, 2, 2], "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
             "mlp_ratios": [2, 2, 2, 2]},
    "levit": {"num_attention_heads": [2, 2, 2], "image_size": 64, "hidden_sizes": [16, 16, 32], "depths": [1, 1, 1],
              "key_dim": [4, 4, 4], "patch_size": 16},
    "hiera": {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "query_stride": [2, 2],
              "num_query_pool": 1, "masked_unit_size": [4, 4], "patch_size": [7, 7]},
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 16]},
    "hgnet_v2": {}, "textnet": {},
    "hubert": SPEECH, "sew": SPEECH | {"squeeze_factor": 1}, "wavlm": SPEECH, "unispeech": SPEECH,
    "unispeech-sat": SPEECH, "data2vec-audio": SPEECH, "wav2vec2-conformer": SPEECH,
    "sew-d": SPEECH | {"squeeze_factor": 1, "max_position_embeddings": 64},
    "gptj": {"rotary_dim": 4}, "codegen": {"rotary_dim": 4, "n_head": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "reformer": {"attn_layers": ["local", "lsh"], "axial_pos_embds": False, "attention_head_size": 8,
                 "local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "num_hashes": 1, "feed_forward_size": 24,
                 "hash_seed": 0, "is_decoder": False},
    "diffllama": {"num_key_value_heads": 2}, "xlnet": {}, "xlm": {}, "xglm": {}, "yoso": {},
    "xmod": {"default_language": "en_XX"},
    "xlm-roberta-xl": {}, "umt5": {}, "vit_mae": {}, "vit_msn": {}, "visual_bert": {},
    "yolos": {"image_size": [32, 32]},
    "mamba2": {"num_heads": 4, "head_dim": 8, "expand": 2, "n_groups": 1},
    "mpnet": {"relative_attention_num_buckets": 32}, "lilt": {"channel_shrink_ratio": 2, "hidden_size": 24},
}  # fmt: skip
SAMPLE = frozenset({"swinv2", "mamba2", "segformer", "clip", "vit_mae", "patchtst", "encodec"})

for _kind, _options in SHAPED.items():
    architecture(f"transformers/{_kind}", "transformers", into=WIDE, sample=_kind in SAMPLE)(
        lambda kind=_kind, options=_options: automatic(kind, **options)
    )


def more(kind: str) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    return architecture(f"transformers/{kind}", "transformers", into=WIDE, sample=kind in SAMPLE)


def _auto(kind: str, **options: Any) -> Any:
    return opened(require("transformers").AutoModel.from_config(tiny_config(kind, **options)))


def _pairs(kind: str, **options: Any) -> Built:
    model = _auto(kind, **options)
    size = model.config.vision_config.image_size
    return model, {"input_ids": tokens(), "pixel_values": image(size)}


for _kind in ("clip", "siglip", "chinese_clip", "altclip", "groupvit", "owlvit", "blip", "metaclip_2"):
    more(_kind)(lambda kind=_kind: _pairs(kind))


@more("vits")
def vits() -> Built:
    model = _auto(
        "vits", upsample_initial_channel=16, flow_size=16, spectrogram_bins=9, prior_encoder_num_flows=1,
        duration_predictor_filter_channels=8, wavenet_dilation_rate=1, posterior_encoder_num_wavenet_layers=1,
        prior_encoder_num_wavenet_layers=1, duration_predictor_num_flows=1, upsample_rates=[4, 2],
        upsample_kernel_sizes=[8, 4], ffn_dim=24,
    )  # fmt: skip
    return model, {"input_ids": tokens(4)}


@more("funnel")
def funnel() -> Built:
    t = require("transformers")
    config = t.FunnelConfig(vocab_size=40, block_sizes=[1, 1], num_decoder_layers=1, d_model=16, n_head=2, d_head=8,
                            d_inner=24)  # fmt: skip
    return opened(t.FunnelModel(config)), {"input_ids": tokens(8)}


@more("audio-spectrogram-transformer")
def audio_spectrogram_transformer() -> Built:
    model = _auto("audio-spectrogram-transformer", max_length=32, num_mel_bins=16, patch_size=8)
    return model, {"input_values": torch.randn(1, 32, 16)}


@more("vilt")
def vilt() -> Built:
    return _auto("vilt"), {"input_ids": tokens(), "pixel_values": image()}


@more("lxmert")
def lxmert() -> Built:
    model = _auto("lxmert", l_layers=1, x_layers=1, r_layers=1, visual_feat_dim=8)
    return model, {"input_ids": tokens(), "visual_feats": torch.randn(1, 3, 8), "visual_pos": torch.rand(1, 3, 4)}


@more("whisper")
def whisper() -> Built:
    model = _auto("whisper", max_source_positions=16, num_mel_bins=8)
    return model, {"input_features": torch.randn(1, 8, 32), "decoder_input_ids": tokens(4)}


@more("speech_to_text")
def speech_to_text() -> Built:
    convs = {"conv_channels": 16, "num_conv_layers": 1, "conv_kernel_sizes": (3,)}
    model = _auto("speech_to_text", input_feat_per_channel=8, **convs)
    return model, {"input_features": torch.randn(1, 16, 8), "decoder_input_ids": tokens(4)}


@more("videomae")
def videomae() -> Built:
    return _auto("videomae", image_size=16, num_frames=4), {"pixel_values": torch.randn(1, 4, 3, 16, 16)}


@more("vivit")
def vivit() -> Built:
    model = _auto("vivit", image_size=16, num_frames=4, tubelet_size=[2, 8, 8])
    return model, {"pixel_values": torch.randn(1, 4, 3, 16, 16)}


@more("timesformer")
def timesformer() -> Built:
    return _auto("timesformer", image_size=16, num_frames=4), {"pixel_values": torch.randn(1, 4, 3, 16, 16)}


@more("patchtst")
def patchtst() -> Built:
    model = _auto("patchtst", num_input_channels=2, context_length=16, patch_length=4, patch_stride=4)
    return model, {"past_values": torch.randn(1, 16, 2)}


@more("patchtsmixer")
def patchtsmixer() -> Built:
    model = _auto("patchtsmixer", num_input_channels=2, context_length=16, patch_length=4, patch_stride=4)
    return model, {"past_values": torch.randn(1, 16, 2)}


def _series(kind: str, **options: Any) -> Built:
    model = _auto(kind, prediction_length=4, context_length=8, lags_sequence=[1, 2], num_time_features=1, **options)
    past = 10
    return model, {
        "past_values": torch.randn(1, past), "past_time_features": torch.randn(1, past, 1),
        "past_observed_mask": torch.ones(1, past), "future_values": torch.randn(1, 4),
        "future_time_features": torch.randn(1, 4, 1),
    }  # fmt: skip


for _kind in ("time_series_transformer", "informer"):
    more(_kind)(lambda kind=_kind: _series(kind))


@more("decision_transformer")
def decision_transformer() -> Built:
    model = _auto("decision_transformer", state_dim=5, act_dim=2, max_ep_len=16)
    return model, {
        "states": torch.randn(1, 3, 5), "actions": torch.randn(1, 3, 2), "rewards": torch.randn(1, 3, 1),
        "returns_to_go": torch.randn(1, 3, 1), "timesteps": torch.arange(3)[None], "attention_mask": torch.ones(1, 3),
    }  # fmt: skip


@more("perceiver")
def perceiver() -> Built:
    model = _auto("perceiver", num_latents=4, d_latents=16, d_model=8, num_blocks=1, num_self_attends_per_block=1,
                  num_self_attention_heads=2, num_cross_attention_heads=2)  # fmt: skip
    return model, {"inputs": torch.randn(1, 6, 8)}


@more("encodec")
def encodec() -> Built:
    model = _auto("encodec", num_filters=4, hidden_size=8, upsampling_ratios=[2, 2], codebook_size=16, codebook_dim=8,
                  num_residual_layers=1, num_lstm_layers=1)  # fmt: skip
    return model.encoder, torch.randn(1, 1, 32)


def _detector(kind: str, **options: Any) -> Built:
    backbone = tiny_config("resnet", embedding_size=8, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16],
                           out_features=["stage4"])  # fmt: skip
    model = _auto(kind, backbone_config=backbone, backbone=None, use_pretrained_backbone=False, **options)
    return model, {"pixel_values": image(64)}


for _kind in ("detr", "conditional_detr", "table-transformer"):
    more(_kind)(lambda kind=_kind: _detector(kind))


@more("sam-vision")
def sam_vision() -> Built:
    config = tiny_config("sam").vision_config
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
             "window_size": 2, "global_attn_indexes": [1], "output_channels": 8, "mlp_dim": 24}  # fmt: skip
    t = require("transformers")
    return opened(t.SamVisionModel(type(config)(**sizes))), {"pixel_values": image(32)}
