"""Which channels of a model belong together, and which of them no input-output path runs through."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepstruct.pruning.alive import flows
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import Conv, EdgeOperator, Identity, Matmul, Separable
from deepstruct.structure.orders.labels import channel_labels
from deepstruct.structure.orders.pairs import Pairs, label_pairs

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DENSE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class PerChannel(nn.Module):
    """Multiplies channels (axis 1) one by one: a batch norm or PReLU as edges, so that the graph knows its channels."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C) or (N, C, ...), of the same shape out."""
        if x.dim() == 2:
            return self(x.unsqueeze(-1)).squeeze(-1)
        axes = x.dim() - 2
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
        out: Tensor = convolve(x, self.weight.reshape(-1, 1, *[1] * axes), groups=len(self.weight))
        return out


@dataclass
class Sides:
    """Classes of what a layer reads and writes: int64 (inputs,) and (outputs,), -1 where there is none."""

    inputs: Tensor
    outputs: Tensor


@dataclass
class Channels:
    """Classes of channels that can only go together.

    Attributes:
        layers: path -> classes of a layer's inputs and outputs; of per-channel modules both are the same.
        alive: boolean per class: on a path from an input to an output, or not to be touched.
        reached: boolean per class: whether any of its units depends on an input.
    """

    layers: dict[str, Sides] = field(default_factory=dict)
    alive: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    reached: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))


def scales(module: nn.Module) -> Tensor | None:
    """What an eval-mode batch norm (or a PReLU with a slope for each channel) multiplies channels by; else None."""
    if isinstance(module, BATCH_NORMS) and module.running_var is not None:
        scale = torch.ones_like(module.running_var) if module.weight is None else module.weight.detach()
        return scale / (module.running_var + module.eps).sqrt()
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return torch.ones(module.num_parameters)
    return None


def find_channels(plain: nn.Module, example_input: Any) -> Channels:
    """Trace a plain model (see `bake`) and find its classes of channels."""
    from deepstruct.api import extract

    twin = copy.deepcopy(plain).eval()
    for path, module in list(twin.named_modules()):
        scale = scales(module)
        if scale is not None and path:
            parent, _, name = path.rpartition(".")
            twin.get_submodule(parent)._modules[name] = PerChannel(scale)
    graph = extract(twin, example_input, normalization="stats", attention="units", progress=False)
    return _Finder(graph, twin).run()


class _Finder:
    def __init__(self, graph: StructureGraph, twin: nn.Module) -> None:
        self.graph = graph
        self.modules = dict(twin.named_modules())
        self.labels = channel_labels(graph).resolved()
        by_key: dict[Any, list[str]] = {}
        for name, value in graph.context.trace.parameters.items():
            by_key.setdefault(("parameter", value), []).append(name)
        # a weight that several layers share cannot be cut for one of them
        self.owner = {
            key: names[0].removesuffix(".weight")
            for key, names in by_key.items()
            if len(names) == 1 and names[0].endswith(".weight")
        }
        self.owner = {
            key: path for key, path in self.owner.items() if isinstance(self.modules.get(path), (*DENSE, PerChannel))
        }
        self.joined: list[Tensor] = []  # (2, n) pairs of labels that go together
        self.pinned: list[Tensor] = []

    def run(self) -> Channels:
        graph, sides = self.graph, dict[str, list[tuple[Tensor, Tensor]]]()
        for op in graph.operators:
            source, target = self.labels.read(op.source), self.labels.read(op.target)
            path = self.owner.get(op.weight.key) if op.weight is not None else None
            if path is not None and isinstance(op, (Conv, Matmul)):
                sides.setdefault(path, []).append(self._layer(op, source, target, path))
            elif isinstance(op, (Identity, Separable)) and not self._has_parameters(op.name):
                self._structural(op, source, target)
            else:
                self.pinned += [source.reshape(-1), target.reshape(-1)]
        for name, operand in graph.outputs:
            self.pinned.append(self.labels.read(operand).reshape(-1))
            del name
        for space in graph.spaces:
            if space.is_source:
                self.pinned.append(self.labels.of_slots(space, torch.ones(space.numel, dtype=torch.bool)))
        for calls in sides.values():
            for inputs, outputs in calls[1:]:
                self._join(calls[0][0], inputs)
                self._join(calls[0][1], outputs)
        return self._classes({path: calls[0] for path, calls in sides.items()})

    def _has_parameters(self, path: str) -> bool:
        module = self.modules.get(path)
        return bool(path) and module is not None and any(True for _ in module.parameters(recurse=False))

    def _layer(self, op: Conv | Matmul, source: Tensor, target: Tensor, path: str) -> tuple[Tensor, Tensor]:
        if isinstance(op, Matmul):
            inputs, outputs = source.reshape(-1, op.inner).T, target.reshape(-1, op.outer).T
        else:
            inputs, outputs = source.movedim(1, 0).flatten(1), target.movedim(1, 0).flatten(1)
        reads, writes = self._one_each(inputs), self._one_each(outputs)
        if isinstance(self.modules[path], PerChannel):
            self._join(reads, writes)
        elif isinstance(op, Conv) and op.groups > 1:
            if op.groups == len(reads) and len(writes) == len(reads):  # depthwise
                self._join(reads, writes)
            else:
                self.pinned += [reads, writes]
        return reads, writes

    def _one_each(self, rows: Tensor) -> Tensor:
        """One label for each row; all that are in a row go together."""
        first = rows.max(1).values
        spread = first[:, None].expand(rows.shape)
        apart = (rows >= 0) & (rows != spread)
        if bool(apart.any()):
            self._join(rows[apart], spread[apart])
        return first

    def _structural(self, op: EdgeOperator, source: Tensor, target: Tensor) -> None:
        for piece in label_pairs(op, source, target):
            if isinstance(piece, Pairs):
                self._join(piece.source, piece.target)
            else:
                self.pinned += [source.reshape(-1), target.reshape(-1)]
                return

    def _join(self, a: Tensor, b: Tensor) -> None:
        both = (a >= 0) & (b >= 0)
        self.joined.append(torch.stack([a[both], b[both]]).unique(dim=1))

    def _classes(self, sides: dict[str, tuple[Tensor, Tensor]]) -> Channels:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        graph = self.graph
        per_space = [self.labels.read(_whole(space)) if space.numel else torch.zeros(0) for space in graph.spaces]
        size = 1 + max((int(labels.max()) for labels in per_space if labels.numel()), default=-1)
        pairs = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *self.joined], 1).numpy()
        matrix = coo_array(([True] * pairs.shape[1], (pairs[0], pairs[1])), shape=(size, size))
        count, found = connected_components(matrix, directed=False)
        of = torch.cat([torch.from_numpy(found).to(torch.int64), torch.tensor([-1])])  # label -1 has no class
        alive, reached = torch.zeros(count + 1, dtype=torch.bool), torch.zeros(count + 1, dtype=torch.bool)
        ahead, back = flows(graph)
        for space, labels in zip(graph.spaces, per_space, strict=True):
            classes, here = of[labels.reshape(-1)], space.slots
            alive[classes[ahead[here] & back[here]]] = True
            reached[classes[ahead[here]]] = True
        for labels in self.pinned:
            alive[of[labels[labels >= 0]]] = True
        layers = {path: Sides(of[reads], of[writes]) for path, (reads, writes) in sides.items()}
        return Channels(layers, alive[:-1], reached[:-1])


def _whole(space: Any) -> Any:
    from deepstruct.structure.operand import Operand

    return Operand.strided((space.numel,), (1,), space.offset)
