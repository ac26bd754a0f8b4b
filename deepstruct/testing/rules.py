"""check_rule: everything that a structure rule owes, in one call."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from deepstruct.errors import DeepstructError
from deepstruct.structure.edges import EdgeList
from deepstruct.structure.graph import StructureGraph
from deepstruct.testing.build import build_graph, generic_copy, loose_tensors
from deepstruct.testing.jacobian import check_containment, check_equality
from deepstruct.testing.support import OracleError

CHECKS = ("oracle", "untouched", "deterministic", "counts", "zeros", "half")


def check_rule(
    layer: nn.Module,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    equality: bool = True,
    smooth: bool = True,
    skip: tuple[str, ...] = (),
    seed: int = 0,
    **settings: Any,
) -> StructureGraph:
    """Checks the rules that a layer needs; a plugin author calls it with the layer that the rule is for.

    The checks, by the names that `skip` takes:

    - "oracle": every dependency that the derivative shows is a path of the graph, and with `equality`
      the other way round.
    - "untouched": weights, buffers, training flags, inputs and the random state are as before.
    - "deterministic": reading the layer twice gives the same graph.
    - "counts": the number of edges is that of the explicit list, of both kinds.
    - "zeros": a weight that is set to zero makes no edge, and no node appears or vanishes.
    - "half": the layer in bfloat16 has the same graph.

    Args:
        equality: False where the layer is known to hide dependencies that its structure has.
        smooth: as in `jacobian_support`.
        settings: those of `build_graph`.

    Returns:
        The graph of the layer. Raises OracleError with the name of the check that failed; errors of the
        rule itself pass through.
    """
    unknown = set(skip) - set(CHECKS)
    if unknown:
        raise OracleError(f"no check is called {sorted(unknown)}; there are {CHECKS}")
    arguments: dict[str, Any] = {"example_kwargs": example_kwargs, **settings}
    before = _state(layer, example_input, example_kwargs)
    graph = build_graph(layer, example_input, **arguments)
    if "untouched" not in skip:
        _untouched(layer, before, _state(layer, example_input, example_kwargs))
    if "oracle" not in skip:
        check = check_equality if equality else check_containment
        check(layer, example_input, smooth=smooth, seed=seed, **arguments)
    edges = graph.edge_list()
    if "deterministic" not in skip:
        _same_graph("deterministic", edges, build_graph(layer, example_input, **arguments).edge_list())
    if "counts" not in skip:
        _counts(graph, edges)
    if "zeros" not in skip:
        _zeros(layer, example_input, arguments, seed)
    if "half" not in skip:
        _half(layer, example_input, example_kwargs, edges, settings)
    return graph


def _state(layer: nn.Module, example: Any, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    tensors = {f"{k} (state)": v.detach().clone() for k, v in layer.state_dict().items()}
    found: list[torch.Tensor] = []
    _tensors((example, kwargs), found)
    tensors.update({f"input {k}": t.detach().clone() for k, t in enumerate(found)})
    tensors["random state"] = torch.get_rng_state()
    return {"tensors": tensors, "training": {n: m.training for n, m in layer.named_modules()}}


def _tensors(tree: Any, found: list[torch.Tensor]) -> None:
    if isinstance(tree, torch.Tensor):
        found.append(tree)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            _tensors(item, found)
    elif isinstance(tree, Mapping):
        for item in tree.values():
            _tensors(item, found)


def _untouched(layer: nn.Module, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    name = type(layer).__name__
    if before["training"] != after["training"]:
        raise OracleError(f"untouched: reading {name} changed the training flag of a module")
    if before["tensors"].keys() != after["tensors"].keys():
        raise OracleError(f"untouched: reading {name} changed which tensors it has")
    for key, tensor in before["tensors"].items():
        if not torch.equal(tensor, after["tensors"][key]):
            raise OracleError(f"untouched: reading {name} changed {key}")


def _same_graph(check: str, one: EdgeList, other: EdgeList, *, weights: bool = True) -> None:
    if one.num_nodes != other.num_nodes:
        raise OracleError(f"{check}: {one.num_nodes} nodes in one graph, {other.num_nodes} in the other")
    if one.num_edges != other.num_edges:
        raise OracleError(f"{check}: {one.num_edges} edges in one graph, {other.num_edges} in the other")
    for key in ("source", "target", "inputs", "outputs"):
        if not np.array_equal(getattr(one, key), getattr(other, key)):
            raise OracleError(f"{check}: the two graphs differ in {key}")
    if int(np.isnan(one.weight).sum()) != int(np.isnan(other.weight).sum()):
        raise OracleError(f"{check}: edges run through weights in one graph and not in the other")
    if weights and not np.array_equal(np.sort(one.weight), np.sort(other.weight), equal_nan=True):
        raise OracleError(f"{check}: the two graphs differ in their weights")


def _counts(graph: StructureGraph, edges: EdgeList) -> None:
    structural = int(np.isnan(edges.weight).sum())
    counted = (graph.num_edges, graph.num_structural_edges, graph.num_nodes)
    written = (edges.num_edges, structural, edges.num_nodes)
    if counted != written:
        raise OracleError(
            f"counts: the operators count (edges, structural edges, nodes) = {counted}, the list has {written}"
        )


def _zeros(layer: nn.Module, example: Any, arguments: Mapping[str, Any], seed: int) -> None:
    """Zeroes random weights: the edges that vanish are those through the zeroed weights."""
    kwargs = arguments.get("example_kwargs")
    settings = {k: v for k, v in arguments.items() if k != "example_kwargs"}
    twin, (args, named) = generic_copy(layer, example, example_kwargs=kwargs, seed=seed)
    full = build_graph(twin, args, example_kwargs=named, **settings)
    weights = _weights_of(full, twin)
    if not weights:
        return
    generator = torch.Generator().manual_seed(seed)
    before = full.edge_list()
    usage = _edges_per_weight(full, weights)
    expected = before.num_edges
    with torch.no_grad():
        for key, parameter in weights.items():
            gone = torch.rand(parameter.shape, generator=generator) < 0.4
            lost = usage.get(key)
            if lost is not None:
                expected -= int(lost[(gone & (parameter != 0)).reshape(-1)].sum())
            parameter[gone] = 0
    pruned = build_graph(twin, args, example_kwargs=named, **settings)
    if pruned.num_edges != expected or pruned.edge_list().num_edges != expected:
        raise OracleError(
            f"zeros: {before.num_edges} edges before weights were set to zero; {expected} should be left, the "
            f"operators count {pruned.num_edges} and the list has {pruned.edge_list().num_edges}"
        )


def _weights_of(graph: StructureGraph, layer: nn.Module) -> dict[int, nn.Parameter]:
    """Storage address -> parameter, of parameters that edge operators use as they are stored."""
    by_address = {p.untyped_storage().data_ptr(): p for p in layer.parameters() if p.is_contiguous()}
    used = set()
    for op in graph.operators:
        if op.weight is not None and not op.weight.tensor.is_meta:
            used.add(op.weight.tensor.untyped_storage().data_ptr())
    return {a: p for a, p in by_address.items() if a in used}


def _edges_per_weight(graph: StructureGraph, weights: Mapping[int, nn.Parameter]) -> dict[int, torch.Tensor]:
    """For each stored weight the number of edges through it, from the operators' `weight_usage`."""
    usage: dict[int, torch.Tensor] = {}
    live = torch.ones(graph.num_slots) if graph.live is None else graph.live.to(torch.float32)
    for op in graph.operators:
        if op.weight is None or op.weight.tensor.is_meta:
            continue
        tensor = op.weight.tensor
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            continue
        counts = op.weight_usage(op.source.gather(live), op.target.gather(live)).to(torch.float64)
        stored = usage.setdefault(address, torch.zeros(weights[address].numel(), dtype=torch.float64))
        where = torch.arange(stored.numel()).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        stored.index_add_(0, where.reshape(-1), counts.expand(tensor.shape).reshape(-1))
    return usage


def _half(
    layer: nn.Module, example: Any, kwargs: Mapping[str, Any] | None, edges: EdgeList, settings: Mapping[str, Any]
) -> None:
    from deepstruct.trace.inputs import as_arguments
    from deepstruct.trace.tree import map_tensors

    half = copy.deepcopy(layer, loose_tensors(layer)).to(torch.bfloat16)
    if any(bool((a != 0).any() != (b != 0).any()) for a, b in zip(layer.parameters(), half.parameters(), strict=True)):
        raise OracleError("half: weights vanish in bfloat16; skip this check")

    def lower(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.bfloat16) if tensor.dtype.is_floating_point else tensor

    args, named = as_arguments(() if example is None else example, kwargs)
    args = tuple(map_tensors(a, lower) for a in args)
    try:
        other = build_graph(half, args, example_kwargs={k: map_tensors(a, lower) for k, a in named.items()}, **settings)
    except DeepstructError as error:
        raise OracleError(f"half: the layer in bfloat16 cannot be read: {error}") from error
    _same_graph("half", edges, other.edge_list(), weights=False)
