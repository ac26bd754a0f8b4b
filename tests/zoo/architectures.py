"""The architectures that the tests of this folder build: small configurations, random weights, no downloads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.registry import ZOO, Architecture, Built, architecture, image, opened, require, tokens

__all__ = ["ZOO", "Architecture", "UNet", "bert", "llama", "require", "sizes", "thinned", "tokens"]


# -- torch alone


@architecture("mlp", quotients=True)
def mlp() -> Built:
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    return model, torch.randn(1, 20)


class ResidualMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.inner:
            x = x + block(x)
        return self.head(x)


@architecture("residual_mlp", quotients=True)
def residual_mlp() -> Built:
    return ResidualMLP(), torch.randn(1, 8)


class TwoConvolutions(nn.Sequential):
    def __init__(self, inside: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(inside, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """An encoder and a decoder with skips between their levels, and transposed convolutions on the way up."""

    def __init__(self, channels: int = 3, width: int = 4, classes: int = 2, levels: int = 2) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(levels + 1)]
        self.down = nn.ModuleList(TwoConvolutions(a, b) for a, b in zip([channels, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.joined = nn.ModuleList(TwoConvolutions(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for k, block in enumerate(self.down):
            x = block(x if k == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, block, skip in zip(self.up, self.joined, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], 1))
        return self.head(x)


@architecture("unet", quotients=True)
def unet() -> Built:
    return UNet(), image(16)


class SequenceClassifier(nn.Module):
    """Token ids through an embedding and a recurrent network to one label."""

    def __init__(self, cell: type[nn.RNNBase], bidirectional: bool, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 6)
        self.rnn = cell(6, 8, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(16 if bidirectional else 8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.rnn(self.embed(tokens))
        return self.head(states[:, -1])


@architecture("lstm_classifier", acyclic_first=False, quotients=True)
def lstm_classifier() -> Built:
    return SequenceClassifier(nn.LSTM, False, layers=2), torch.randint(30, (1, 7))


@architecture("bilstm_classifier", acyclic_first=False)
def bilstm_classifier() -> Built:
    return SequenceClassifier(nn.LSTM, True), torch.randint(30, (1, 6))


@architecture("gru_classifier", acyclic_first=False)
def gru_classifier() -> Built:
    return SequenceClassifier(nn.GRU, False), torch.randint(30, (1, 6))


# -- torchvision


def thinned(model: nn.Module, keep: int = 8) -> nn.Module:
    """The model with every layer cut to 1/keep of its channels; those of the image and the classes stay.

    The layers are new ones, so that the model may be on the meta device.
    """
    for path, layer in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(layer, nn.Conv2d):
            inside = layer.in_channels if layer.in_channels == 3 else layer.in_channels // keep
            geometry: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
            small: nn.Module = nn.Conv2d(inside, layer.out_channels // keep, *geometry, bias=layer.bias is not None)
        elif isinstance(layer, nn.BatchNorm2d):
            small = nn.BatchNorm2d(layer.num_features // keep)
        elif isinstance(layer, nn.Linear):
            out = layer.out_features if layer.out_features < 100 else layer.out_features // keep
            small = nn.Linear(layer.in_features // keep, out)
        else:
            continue
        setattr(model.get_submodule(parent), name, small)
    return model


def _torchvision(name: str, device: str = "cpu", **options: Any) -> nn.Module:
    with torch.device(device):
        return getattr(require("torchvision").models, name)(num_classes=5, **options)


@architecture("alexnet", "torchvision")
def alexnet() -> Built:
    return thinned(_torchvision("alexnet", "meta")), image(64)


@architecture("vgg11", "torchvision")
def vgg11() -> Built:
    return thinned(_torchvision("vgg11", "meta")), image(32)


@architecture("vgg16_bn", "torchvision")
def vgg16_bn() -> Built:
    return thinned(_torchvision("vgg16_bn", "meta")), image(32)


@architecture("resnet18", "torchvision")
def resnet18() -> Built:
    return _torchvision("resnet18"), image(32)


@architecture("resnet50", "torchvision")
def resnet50() -> Built:
    return thinned(_torchvision("resnet50", "meta"), 4), image(32)


@architecture("resnet_small", "torchvision", quotients=True)
def resnet_small() -> Built:
    from torchvision.models.resnet import BasicBlock, ResNet

    return thinned(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)), image(16)


@architecture("resnext", "torchvision")
def resnext() -> Built:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5, groups=4, width_per_group=4), image(32)


@architecture("densenet", "torchvision", quotients=True)
def densenet() -> Built:
    from torchvision.models import DenseNet

    return DenseNet(4, (2, 2), num_init_features=8, bn_size=2, num_classes=5), image(32)


@architecture("densenet_deep", "torchvision")
def densenet_deep() -> Built:
    from torchvision.models import DenseNet

    return DenseNet(8, (4, 6, 10, 6), 16, num_classes=5), image(32)


@architecture("mobilenet_v2", "torchvision")
def mobilenet_v2() -> Built:
    return _torchvision("mobilenet_v2", width_mult=0.25), image(32)


@architecture("mobilenet_small", "torchvision", quotients=True)
def mobilenet_small() -> Built:
    from torchvision.models import MobileNetV2

    blocks = [[1, 8, 1, 1], [6, 8, 2, 2], [6, 16, 1, 2]]
    model = MobileNetV2(num_classes=4, width_mult=0.25, inverted_residual_setting=blocks)
    model.classifier[1] = nn.Linear(32, 4)
    model.features[-1] = nn.Conv2d(model.features[-1][0].in_channels, 32, 1)
    return model, image(16)


@architecture("mobilenet_v3_small", "torchvision")
def mobilenet_v3_small() -> Built:
    return _torchvision("mobilenet_v3_small", width_mult=0.5), image(32)


@architecture("mobilenet_v3_large", "torchvision")
def mobilenet_v3_large() -> Built:
    return _torchvision("mobilenet_v3_large", width_mult=0.25), image(32)


@architecture("efficientnet", "torchvision")
def efficientnet() -> Built:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    stages = [(1, 3, 1, 8, 8, 1), (6, 3, 2, 8, 12, 2), (6, 5, 2, 12, 16, 2), (6, 3, 1, 16, 24, 1)]
    model = EfficientNet([MBConvConfig(*stage) for stage in stages], dropout=0.2, num_classes=5)
    return model, image(32)


@architecture("squeezenet", "torchvision")
def squeezenet() -> Built:
    return _torchvision("squeezenet1_1"), image(32)


@architecture("shufflenet", "torchvision")
def shufflenet() -> Built:
    return _torchvision("shufflenet_v2_x0_5"), image(32)


@architecture("googlenet", "torchvision")
def googlenet() -> Built:
    return thinned(_torchvision("googlenet", init_weights=False, aux_logits=False), 4), image(32)


@architecture("regnet", "torchvision")
def regnet() -> Built:
    from torchvision.models.regnet import BlockParams, RegNet

    params = BlockParams.from_init_params(depth=6, w_0=16, w_a=16.0, w_m=2.2, group_width=8, se_ratio=0.25)
    return RegNet(params, num_classes=5, stem_width=8), image(32)


@architecture("vit", "torchvision", quotients=True)
def vit() -> Built:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    nn.init.normal_(model.heads.head.weight)  # torchvision sets it to zero: then no path leads to an output
    return model, image(16)


@architecture("convnext", "torchvision", quotients=True)
def convnext() -> Built:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(4, 8, 1), CNBlockConfig(8, None, 1)], num_classes=3), image(32)


@architecture("swin", "torchvision", quotients=True)
def swin() -> Built:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 4, [2, 2], [1, 2], [2, 2], num_classes=3), image(16)


# -- transformers


def sizes(**options: Any) -> dict[str, Any]:
    """A tiny transformer: 2 layers of 2 heads, 8 wide."""
    return {
        "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **options,
    }  # fmt: skip


def bert(**options: Any) -> Built:
    t = require("transformers")
    return t.BertModel(t.BertConfig(**sizes(**options))), {"input_ids": tokens()}


def llama(**options: Any) -> Built:
    t = require("transformers")
    config = t.LlamaConfig(**sizes(num_key_value_heads=1, use_cache=False, **options))
    return t.LlamaForCausalLM(config), {"input_ids": tokens()}


architecture("bert", "transformers", quotients=True)(bert)
architecture("llama", "transformers", quotients=True)(llama)


@architecture("gpt2", "transformers", quotients=True)
def gpt2() -> Built:
    t = require("transformers")
    config = t.GPT2Config(
        vocab_size=40, n_embd=8, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2, use_cache=False
    )
    return t.GPT2LMHeadModel(config), {"input_ids": tokens()}


@architecture("t5", "transformers", quotients=True)
def t5() -> Built:
    t = require("transformers")
    config = t.T5Config(
        vocab_size=40, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, decoder_start_token_id=0, use_cache=False
    )
    model = t.T5ForConditionalGeneration(config)
    return model, {"input_ids": tokens(), "decoder_input_ids": tokens(4)}


@architecture("hf_vit", "transformers")
def hf_vit() -> Built:
    t = require("transformers")
    options = sizes(image_size=16, patch_size=8, num_labels=3)
    for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
        options.pop(name)
    return t.ViTForImageClassification(t.ViTConfig(**options)), image(16)


@architecture("distilbert", "transformers")
def distilbert() -> Built:
    t = require("transformers")
    config = t.DistilBertConfig(vocab_size=40, dim=8, hidden_dim=12, n_layers=2, n_heads=2, pad_token_id=0)
    return t.DistilBertForSequenceClassification(config), {"input_ids": tokens()}


@architecture("mixtral", "transformers")
def mixtral() -> Built:
    """Mixture of experts: which token goes to which expert hangs on the input, and is control."""
    t = require("transformers")
    options = sizes(num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1, use_cache=False)
    return t.MixtralForCausalLM(t.MixtralConfig(**options)), {"input_ids": tokens()}


@architecture("wav2vec2", "transformers")
def wav2vec2() -> Built:
    t = require("transformers")
    config = t.Wav2Vec2Config(
        **sizes(), conv_dim=(4, 4), conv_stride=(4, 2), conv_kernel=(6, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0,
    )  # fmt: skip
    return t.Wav2Vec2Model(config), torch.randn(1, 60)


# -- timm


def _timm(name: str, size: int, **options: Any) -> Built:
    return opened(require("timm").create_model(name, num_classes=3, **options)), image(size)


@architecture("timm_resnet10t", "timm")
def timm_resnet10t() -> Built:
    return _timm("resnet10t", 32)


@architecture("timm_mixer", "timm")
def timm_mixer() -> Built:
    from timm.models.mlp_mixer import MlpMixer

    return opened(MlpMixer(num_classes=3, img_size=32, patch_size=8, num_blocks=2, embed_dim=16)), image(32)


@architecture("timm_levit", "timm")
def timm_levit() -> Built:
    return _timm("levit_128s", 64, img_size=64)


@architecture("timm_repvgg", "timm")
def timm_repvgg() -> Built:
    return _timm("repvgg_a0", 32)


@architecture("timm_mobilevit", "timm")
def timm_mobilevit() -> Built:
    return _timm("mobilevit_xxs", 32)
