"""Adapted layers of the real peft package, against their merged models and against the Jacobian."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.plugin import Host, use_host
from deepstruct.testing import check_equality, check_plugin, check_rule

pytest.importorskip("peft", reason="peft is not installed")

import peft
from deepstruct_peft import plugin
from deepstruct_peft.adapters import effective_weight, is_adapted
from deepstruct_peft.metrics import intruder_dimensions

X = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(1, 8)
IMAGE = torch.linspace(-1, 1, 72, dtype=torch.float64).reshape(1, 2, 6, 6)
A = {"target_modules": ["a"]}
CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=2, init_lora_weights=False, **A),
    "rslora": lambda: peft.LoraConfig(r=2, use_rslora=True, init_lora_weights=False, **A),
    "dora": lambda: peft.LoraConfig(r=2, use_dora=True, init_lora_weights=False, **A),
    "adalora": lambda: peft.AdaLoraConfig(r=2, target_r=1, init_r=2, total_step=10, init_lora_weights=False, **A),
    "ia3": lambda: peft.IA3Config(feedforward_modules=[], init_ia3_weights=False, **A),
    "ia3-inputs": lambda: peft.IA3Config(feedforward_modules=["a"], init_ia3_weights=False, **A),
    "loha": lambda: peft.LoHaConfig(r=2, init_weights=False, **A),
    "lokr": lambda: peft.LoKrConfig(r=2, init_weights=False, **A),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=4, init_weights=False, **A),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, init_weights=False, **A),
    "vera": lambda: peft.VeraConfig(r=2, init_weights=False, **A),
}
CONVOLUTIONS = ("lora", "dora", "loha", "lokr")


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 2, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


@pytest.fixture(autouse=True)
def host(monkeypatch):
    torch.manual_seed(0)
    # peft compiles a CUDA extension for BOFT when it first can, and does without where it cannot
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: None)
    with use_host(Host([("peft", plugin)], entry_points=False)) as host, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield host
        assert host.record("peft").state == "ok", host.record("peft").error


def adapted(name: str, model: type[nn.Module] = Dense) -> nn.Module:
    return peft.get_peft_model(model(), CONFIGS[name]()).eval().double()


def shape(graph) -> tuple[int, int, int]:
    return graph.num_nodes, graph.num_weight_edges, graph.num_structural_edges


@pytest.mark.parametrize("name", CONFIGS)
def test_the_rule_keeps_its_promises(name) -> None:
    check_rule(adapted(name), X, skip=("half",))  # some adapters refuse bfloat16 on the CPU


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapted_model_has_the_graph_of_the_merged_one(name) -> None:
    model = adapted(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    graph, output = deepstruct.extract(model, X), model(X)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert any("deepstruct_peft" in rule or "peft" in rule for rule in graph.providers)
    merged = model.merge_and_unload()
    assert torch.allclose(merged(X), output)
    other = deepstruct.extract(merged, X)
    assert shape(graph) == shape(other) == (18, 8 * 6 + 6 * 4, 0)
    assert torch.allclose(torch.tensor(graph.edge_list().weight), torch.tensor(other.edge_list().weight))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_adapted_convolutions(name) -> None:
    model = adapted(name, Convolutional)
    check_equality(model, IMAGE)
    graph = deepstruct.extract(model, IMAGE)
    merged = model.merge_and_unload()
    assert shape(graph) == shape(deepstruct.extract(merged, IMAGE))


@pytest.mark.parametrize("name", ["lora", "ia3", "oft"])
def test_merged_in_place_and_switched_off(name) -> None:
    model = adapted(name)
    plain = Dense().double()
    expected = shape(deepstruct.extract(plain, X))
    layer = next(module for module in model.modules() if is_adapted(module))
    base, effective = layer.get_base_layer().weight.detach().clone(), effective_weight(layer)
    assert not torch.allclose(base, effective)
    with model.disable_adapter():
        assert torch.equal(effective_weight(layer), base)
        assert shape(deepstruct.extract(model, X)) == expected
    model.merge_adapter()
    assert torch.allclose(effective_weight(layer), effective)
    assert shape(deepstruct.extract(model, X)) == expected


def test_two_active_adapters_add_up() -> None:
    model = adapted("lora")
    model.add_adapter("second", CONFIGS["lora"]())
    model = model.double()
    model.base_model.set_adapter(["default", "second"])
    layer = next(module for module in model.modules() if is_adapted(module))
    one = layer.get_base_layer().weight + layer.get_delta_weight("default") + layer.get_delta_weight("second")
    assert torch.allclose(effective_weight(layer), one)
    check_equality(model, X)


def test_the_operations_inside_on_request(monkeypatch) -> None:
    monkeypatch.setenv("DEEPSTRUCT_PEFT", "branches")
    graph = deepstruct.extract(adapted("lora"), X)
    assert shape(graph) == (8 + 2 + 6 + 4, 8 * 6 + 8 * 2 + 2 * 6 + 6 * 4, 0)


def test_zeros_of_the_base_that_no_adapter_fills_are_no_edges() -> None:
    model = peft.get_peft_model(Dense(), peft.IA3Config(feedforward_modules=[], **A)).eval()
    layer = next(module for module in model.modules() if is_adapted(module))
    with torch.no_grad():
        layer.get_base_layer().weight[0] = 0
    assert deepstruct.extract(model, X.float()).num_weight_edges == 5 * 8 + 6 * 4


def test_metrics() -> None:
    model = adapted("lora")
    names = ["layer_adapter_change", "layer_adapter_rank", "layer_intruder_dimensions"]
    report = deepstruct.analyze(model, X, orders=("zeroth",), metrics=names)
    values = {row.name: row.value for row in report.rows}
    (path,) = values["layer_adapter_rank"]
    assert path.endswith("a")
    assert values["layer_adapter_rank"][path] == 2
    layer = next(module for module in model.modules() if is_adapted(module))
    weight, delta = layer.get_base_layer().weight, layer.get_delta_weight("default")
    assert values["layer_adapter_change"][path] == pytest.approx(float(delta.norm() / weight.norm()))
    model.merge_adapter()
    again = deepstruct.analyze(model, X, orders=("zeroth",), metrics=names)
    assert {row.name: row.value for row in again.rows}["layer_adapter_rank"][path] == 2
    assert all(row.provider == "peft" for row in report.rows)


def test_intruder_dimensions_of_known_matrices() -> None:
    weight, new, old = torch.zeros(20, 5), torch.zeros(20, 5), torch.zeros(20, 5)
    weight[0, 0], weight[1, 1], weight[2, 2] = 3.0, 2.0, 1.0
    new[9, 3] = 5.0  # a direction of the outputs that the weight does not have
    old[0, 0] = 5.0
    full = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0)))[0]
    assert intruder_dimensions(weight[:, :3], new[:, 2:]) == 1
    assert intruder_dimensions(weight[:, :3], old[:, :3]) == 0
    assert intruder_dimensions(full, torch.zeros(20, 20)) == 0


def test_prompt_tuning_of_a_language_model_adds_no_units() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=16)
    model = transformers.GPT2LMHeadModel(config).eval()
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    tokens = torch.tensor([[1, 2, 3, 4]])
    plain = deepstruct.extract(model, example_kwargs={"input_ids": tokens}, order="zeroth")
    tuned = peft.get_peft_model(model, prompts).eval()
    graph = deepstruct.extract(tuned, example_kwargs={"input_ids": tokens}, order="zeroth")
    # The sources are the same four token embeddings: a prompt is a parameter, and parameters are no units.
    assert len(graph.input_nodes()) == len(plain.input_nodes()) == 4 * 8


def test_the_contract() -> None:
    outcome = check_plugin(("peft", plugin))
    assert set(outcome.values()) == {"passed"}
