"""Models of the libraries that people use, scaled down, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from deepstruct.trace import trace

pytestmark = pytest.mark.zoo


@pytest.fixture(autouse=True)
def importable() -> None:
    """transformers and timm import torchvision when they find it."""
    from zoo_compat import declare_torchvision_ops

    declare_torchvision_ops()


def vision(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    models = pytest.importorskip("torchvision.models")
    size = 32
    if name == "vit":
        model = models.VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    elif name == "swin":
        model = models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=5)
    else:
        model = getattr(models, name)(num_classes=5)
    return model.eval(), torch.randn(1, 3, size, size), torch.randn(1, 3, size, size)


@pytest.mark.parametrize("name", ["resnet18", "vit", "swin", "shufflenet_v2_x0_5"])
def test_torchvision(name, mode, replays):
    model, x, y = vision(name)
    graph = replays(model, x, y, mode=mode)
    assert graph.notes == []
    called = {c.path for c in graph.calls if c.kind == "module"}
    assert called <= {path for path, _ in model.named_modules()}


def small(**options: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return {**sizes, **options}


def bert(t: Any, **options: Any) -> nn.Module:
    return t.BertModel(t.BertConfig(**small(), **options))


def gpt2(t: Any, **options: Any) -> nn.Module:
    config = t.GPT2Config(
        vocab_size=60,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )
    return t.GPT2LMHeadModel(config)


def llama(t: Any, **options: Any) -> nn.Module:
    return t.LlamaForCausalLM(t.LlamaConfig(**small(num_key_value_heads=1), **options))


def t5(t: Any, **options: Any) -> nn.Module:
    config = t.T5Config(
        vocab_size=60,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        **options,
    )
    return t.T5ForConditionalGeneration(config)


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("build", [bert, gpt2, llama, t5], ids=lambda f: f.__name__)
def test_transformers(build: Callable[..., nn.Module], use_cache, mode, replays):
    transformers = pytest.importorskip("transformers")
    model = build(transformers, **({} if build is bert else {"use_cache": use_cache})).eval()

    def example() -> dict[str, torch.Tensor]:
        ids = torch.randint(3, 60, (2, 7))
        mask = torch.ones(2, 7, dtype=torch.int64)
        extra = {"decoder_input_ids": torch.randint(3, 60, (2, 5))} if build is t5 else {}
        return {"input_ids": ids, "attention_mask": mask, **extra}

    graph = replays(model, example(), example(), mode=mode)
    names = [name for name, _ in graph.outputs]
    assert names[0] == ("last_hidden_state" if build is bert else "logits")
    assert any("Cache" in note for note in graph.notes) == (use_cache and build is not bert)
    assert graph.values[graph.inputs[0]].name == "input_ids"
    if build is gpt2:
        assert graph.parameters["lm_head.weight"] == graph.parameters["transformer.wte.weight"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_masks(attention, mode, replays):
    transformers = pytest.importorskip("transformers")
    model = llama(transformers, use_cache=False, attn_implementation=attention).eval()
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    first, second = ({"input_ids": torch.randint(3, 60, (2, 5)), "attention_mask": mask} for _ in range(2))
    replays(model, first, second, mode=mode)


def vit(t: Any) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return t.ViTModel(t.ViTConfig(image_size=16, patch_size=8, **sizes))


def test_mixture_of_experts(mode, replays):
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(**small(num_key_value_heads=1), num_local_experts=4, use_cache=False)
    model = transformers.MixtralForCausalLM(config).eval()
    first = {"input_ids": torch.randint(3, 60, (2, 5))}
    graph = replays(model, first, mode=mode)
    assert graph.values[graph.outputs[0][1]].shape == (2, 5, 60)


def test_image_size_of_hugging_face_vision_models():
    transformers = pytest.importorskip("transformers")
    graph = trace(vit(transformers).eval())
    assert graph.values[graph.inputs[0]].shape == (1, 3, 16, 16)


def test_dummy_inputs():
    transformers = pytest.importorskip("transformers")
    graph = trace(bert(transformers).eval())
    assert graph.values[graph.inputs[0]].name == "input_ids"


@pytest.mark.parametrize("name", ["levit_128s", "resnet10t"])
def test_timm(name, replays):
    timm = pytest.importorskip("timm")
    size = 64 if name == "levit_128s" else 32
    options = {"img_size": size} if name == "levit_128s" else {}
    model = timm.create_model(name, num_classes=3, **options).eval()
    replays(model, torch.randn(1, 3, size, size), torch.randn(1, 3, size, size))
    # a second forward of the untouched model: no fake tensor was left in a cache
    assert type(model(torch.randn(1, 3, size, size)).detach()) is torch.Tensor
