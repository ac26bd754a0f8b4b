"""The wide zoo of torchvision and timm: one or more members of every family, on small images."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.architectures import thinned
from tests.zoo.registry import WIDE, Built, architecture, image, opened, require

# name: (image size, options)
CLASSIFIERS: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet34": (32, {}), "wide_resnet50_2": (32, {}), "resnext50_32x4d": (32, {}), "vgg19": (32, {}),
    "vgg13_bn": (32, {}), "densenet121": (32, {}), "densenet169": (32, {}), "squeezenet1_0": (32, {}),
    "shufflenet_v2_x1_0": (32, {}), "mnasnet0_5": (32, {}), "mobilenet_v3_large": (32, {}),
    "efficientnet_b0": (32, {}), "efficientnet_v2_s": (32, {}), "regnet_x_400mf": (32, {}),
    "regnet_y_400mf": (32, {}), "convnext_tiny": (32, {}), "swin_t": (32, {}), "swin_v2_t": (64, {}),
    "vit_b_32": (64, {"image_size": 64}), "inception_v3": (75, {"init_weights": False, "aux_logits": False}),
    "googlenet": (32, {"init_weights": False}),
}  # fmt: skip
THIN = ("vgg19", "vgg13_bn", "wide_resnet50_2")
SAMPLE = ("mnasnet0_5", "regnet_y_400mf")


def _classifier(name: str) -> Built:
    size, options = CLASSIFIERS[name]
    make = getattr(require("torchvision").models, name)
    if name in THIN:
        with torch.device("meta"):
            model = make(num_classes=5, **options)
        return thinned(model, 4), image(size)
    return opened(make(num_classes=5, **options)), image(size)


for _name in CLASSIFIERS:
    architecture(f"torchvision/{_name}", "torchvision", into=WIDE, sample=_name in SAMPLE)(
        lambda name=_name: _classifier(name)
    )


def _segmentation(name: str, **options: Any) -> Built:
    make = getattr(require("torchvision").models.segmentation, name)
    return opened(make(weights=None, weights_backbone=None, num_classes=3, **options)), image(64)


for _name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"):
    architecture(f"torchvision/{_name}", "torchvision", into=WIDE)(lambda name=_name: _segmentation(name))


def _video(name: str, **options: Any) -> Built:
    make = getattr(require("torchvision").models.video, name)
    frames, size = (8, 32) if name.startswith(("mvit", "swin")) else (14, 32) if name == "s3d" else (4, 32)
    if name == "s3d":
        frames, size = 16, 224
    return opened(make(num_classes=5, **options)), torch.randn(1, 3, frames, size, size)


for _name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t"):
    architecture(f"torchvision/{_name}", "torchvision", into=WIDE)(lambda name=_name: _video(name))


@architecture("torchvision/raft_small", "torchvision", into=WIDE)
def raft_small() -> Built:
    """Optical flow: a correlation volume that a recurrent cell looks up at the points that it moves to."""
    model = require("torchvision").models.optical_flow.raft_small()

    class TwoSteps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raft = model

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return self.raft(first, second, num_flow_updates=2)[-1]

    return TwoSteps(), (image(128), image(128))


@architecture("torchvision/retinanet_backbone", "torchvision", into=WIDE)
def feature_pyramid() -> Built:
    """A feature pyramid and the heads of a detector, without the selection of boxes behind them."""
    detector = require("torchvision").models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3
    )

    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = detector.backbone, detector.head

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = self.head(list(self.backbone(x).values()))
            return out["cls_logits"], out["bbox_regression"]

    return Heads(), image(64)


@architecture("torchvision/mvit", "torchvision", into=WIDE)
def multiscale_vision_transformer() -> Built:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, 8, 8, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 8, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1]),
    ]
    options = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True,
               "proj_after_attn": True}  # fmt: skip
    return MViT((32, 32), 4, blocks, num_classes=3, **options), torch.randn(1, 3, 4, 32, 32)


@architecture("torchvision/maxvit", "torchvision", into=WIDE, sample=True)
def maxvit() -> Built:
    from torchvision.models.maxvit import MaxVit

    return MaxVit((32, 32), 8, 2, [8, 16], [1, 1], 4, 0.0, num_classes=3), image(32)


# name: (image size, options of timm.create_model)
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "beit_base_patch16_224": (32, {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    "botnet26t_256": (64, {"img_size": 64}), "halonet26t": (256, {"img_size": 256}),
    "lambda_resnet26rpt_256": (64, {"img_size": 64}), "sehalonet33ts": (256, {"img_size": 256}),
    "eca_botnext26ts_256": (64, {"img_size": 64}),
    "bat_resnext26ts": (256, {}), "gcresnext26ts": (32, {}), "seresnext26ts": (32, {}), "eca_resnext26ts": (32, {}),
    "repvgg_a1": (32, {}), "mobileone_s0": (32, {}), "gernet_s": (32, {}),
    "cait_xxs24_224": (32, {"img_size": 32, "depth": 2}), "coat_lite_tiny": (32, {"img_size": 32}),
    "coat_tiny": (32, {"img_size": 32}), "convit_tiny": (32, {"img_size": 32, "depth": 4}),
    "convmixer_768_32": (32, {}), "convnext_atto": (32, {}), "convnextv2_atto": (32, {}),
    "crossvit_tiny_240": (240, {}), "csatv2": (64, {}),
    "cspdarknet53": (32, {}), "cspresnet50": (32, {}), "darknet53": (32, {}), "cspnext_tiny": (32, {}),
    "davit_tiny": (32, {}), "deit_tiny_distilled_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "deit3_small_patch16_224": (32, {"img_size": 32, "depth": 2}), "densenet121": (32, {}),
    "dla34": (32, {}), "dla46x_c": (32, {}), "dpn48b": (32, {}), "edgenext_xx_small": (32, {}),
    "efficientformer_l1": (224, {}), "efficientformerv2_s0": (64, {"img_size": 64}),
    "efficientnet_lite0": (32, {}), "efficientnet_b0_gn": (32, {}), "mixnet_s": (32, {}), "mnasnet_small": (32, {}),
    "mobilenetv2_035": (32, {}), "fbnetc_100": (32, {}), "spnasnet_100": (32, {}), "tinynet_e": (32, {}),
    "mobilenetv4_conv_small_035": (32, {}), "mobilenetv4_hybrid_medium": (64, {}), "test_efficientnet": (32, {}),
    "mobilenet_edgetpu_v2_xs": (32, {}), "efficientvim_m1": (64, {}), "efficientvit_b0": (32, {}),
    "efficientvit_m0": (64, {"img_size": 64}), "cpubone_b0_bfrobust": (64, {}),
    "eva02_tiny_patch14_224": (28, {"img_size": 28, "depth": 2}),
    "eva_giant_patch14_clip_224": (28, {"img_size": 28, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    "vit_pe_core_tiny_patch16_384": (32, {"img_size": 32, "depth": 2}),
    "fasternet_t0": (32, {}), "fastvit_t8": (64, {}), "fastvit_sa12": (64, {}),
    "focalnet_tiny_srf": (32, {}), "gcvit_xxtiny": (64, {"img_size": 64}), "ghostnet_050": (32, {}),
    "ghostnetv2_100": (64, {}), "ghostnetv3_050": (64, {}), "hardcorenas_a": (32, {}), "hgnetv2_b0": (32, {}),
    "hgnet_tiny": (32, {}), "hiera_tiny_224": (64, {"img_size": 64}), "sam2_hiera_tiny": (128, {}),
    "hrnet_w18_small": (32, {}), "iformer_t": (64, {}), "inception_next_atto": (32, {}),
    "inception_resnet_v2": (75, {}), "inception_v3": (75, {}), "inception_v4": (75, {}),
    "lcnet_035": (32, {}), "lcnetv2_small": (32, {}), "levit_128": (64, {"img_size": 64}),
    "levit_conv_128s": (64, {"img_size": 64}), "lowformer_b0": (64, {}), "mambaout_femto": (32, {}),
    "coatnet_nano_rw_224": (64, {"img_size": 64}), "coatnext_nano_rw_224": (64, {"img_size": 64}),
    "maxvit_pico_rw_256": (64, {"img_size": 64}), "maxvit_rmlp_pico_rw_256": (64, {"img_size": 64}),
    "maxxvit_rmlp_nano_rw_256": (64, {"img_size": 64}),
    "poolformer_s12": (32, {}), "poolformerv2_s12": (32, {}), "convformer_s18": (32, {}), "caformer_s18": (32, {}),
    "gmixer_12_224": (32, {"img_size": 32}), "gmlp_ti16_224": (32, {"img_size": 32}),
    "resmlp_12_224": (32, {"img_size": 32}), "mobilenetv3_small_050": (32, {}),
    "fbnetv3_b": (32, {}), "mobilenetv5_base": (64, {}), "mobilevitv2_050": (32, {}),
    "mvitv2_tiny": (64, {"img_size": 64}),
    "naflexvit_base_patch16_gap": (32, {"depth": 2, "embed_dim": 48, "num_heads": 3}),
    "nasnetalarge": (32, {}), "pnasnet5large": (32, {}), "nest_tiny": (64, {"img_size": 64}), "nextvit_small": (32, {}),
    "nfnet_l0": (32, {}), "eca_nfnet_l0": (32, {}), "nf_resnet50": (32, {}), "dm_nfnet_f0": (32, {}),
    "pit_ti_224": (64, {"img_size": 64}), "pit_ti_distilled_224": (64, {"img_size": 64}),
    "pvt_v2_b0": (32, {}), "pvt_v2_b2_li": (32, {}), "rdnet_tiny": (32, {}), "regnetx_002": (32, {}),
    "regnety_002": (32, {}), "regnetz_005": (32, {}), "repghostnet_050": (32, {}), "repvit_m0_9": (32, {}),
    "res2net50_14w_8s": (32, {}), "resnest14d": (32, {}), "resnet26t": (32, {}), "seresnet50": (32, {}),
    "resnetblur50": (32, {}), "resnetrs50": (32, {}), "ecaresnet26t": (32, {}), "resnet50_gn": (32, {}),
    "resnetv2_50": (32, {}), "resnetv2_50x1_bit": (32, {}), "rexnet_100": (32, {}), "selecsls42": (32, {}),
    "legacy_seresnet18": (32, {}), "sequencer2d_s": (64, {}), "shvit_s1": (64, {}), "skresnet18": (32, {}),
    "starnet_s050": (32, {}), "swiftformer_xs": (64, {}),
    "swin_tiny_patch4_window7_224": (64, {"img_size": 64, "window_size": 2}),
    "swin_s3_tiny_224": (64, {"img_size": 64, "window_size": 2}),
    "swinv2_tiny_window8_256": (64, {"img_size": 64, "window_size": 2}),
    "swinv2_cr_tiny_224": (64, {"img_size": 64}), "tiny_vit_5m_224": (64, {}),
    "tnt_s_patch16_224": (32, {"img_size": 32, "depth": 2}), "tresnet_m": (32, {}),
    "twins_pcpvt_small": (32, {"img_size": 32}), "twins_svt_small": (32, {"img_size": 32}), "vgg11": (32, {}),
    "visformer_tiny": (64, {"img_size": 64}), "vit_tiny_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "vit_base_patch16_siglip_224": (32, {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    "vit_small_patch14_reg4_dinov2": (28, {"img_size": 28, "depth": 2}),
    "vit_tiny_r_s16_p8_224": (32, {"img_size": 32, "depth": 2}),
    "aimv2_large_patch14_224": (28, {"img_size": 28, "depth": 2, "embed_dim": 64, "num_heads": 2}),
    "vit_relpos_small_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "vit_srelpos_small_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "samvit_base_patch16": (
        64, {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3, "global_attn_indexes": (1,)}
    ),
    "vitamin_small_224": (32, {"img_size": 32}), "volo_d1_224": (64, {"img_size": 64}),
    "ese_vovnet19b_slim": (32, {}), "eca_vovnet39b": (32, {}), "legacy_xception": (32, {}), "xception41": (32, {}),
    "xcit_nano_12_p16_224": (32, {"img_size": 32, "depth": 2}),
    "xcit_tiny_12_p8_224": (32, {"img_size": 32, "depth": 2}),
}  # fmt: skip
TIMM_SAMPLE = ("vit_srelpos_small_patch16_224", "xcit_nano_12_p16_224", "lcnet_035")


def _timm(name: str) -> Built:
    size, options = TIMM[name]
    return opened(require("timm").create_model(name, num_classes=3, **options)), image(size)


for _name in TIMM:
    architecture(f"timm/{_name}", "timm", into=WIDE, sample=_name in TIMM_SAMPLE)(lambda name=_name: _timm(name))
