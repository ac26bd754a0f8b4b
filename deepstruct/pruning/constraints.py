"""Constraints: what must stay connected, by path. A request that cannot be met raises before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from deepstruct.pruning.alive import flows, pairs
from deepstruct.pruning.protocols import Infeasible, Tensors
from deepstruct.pruning.view import View
from deepstruct.pruning.wiring import Wiring
from deepstruct.structure.graph import StructureGraph

Plan = Callable[[Wiring, "np.ndarray | None"], bool]
_HUBS = 4  # units that are tried as the one that all paths run through


class Connectivity:
    """Masks that keep some paths alive. What the whole model cannot connect is not asked for.

    Where the masks at hand fall short, the weights of cheapest paths are needed (few, of high scores, as far as that
    goes) and the rest of the budget is filled by score. The search writes the graph down, within `max_memory` bytes;
    the check does not. It is a heuristic: exact for the classic cases (the tests have them), near the minimum else.
    """

    what = "stay connected"

    def __init__(self, max_memory: int = 4 << 30) -> None:
        self.max_memory = max_memory

    def lost(self, full: StructureGraph, now: StructureGraph) -> int:
        """How much that should be alive is not: 0 where the constraint holds."""
        raise NotImplementedError

    def plans(self, view: View) -> Iterator[Plan]:
        """Ways to make it hold, each a function that adds what it needs to a wiring and says whether that went."""
        raise NotImplementedError

    def __call__(self, masks: Tensors, scores: Tensors, choose: Callable[[Tensors], Tensors], view: View) -> Tensors:
        network = view.network
        full = network.full
        if self.lost(full, network.graph(masks)) == 0:
            return masks
        view = view.explicit()
        network = view.network
        full = network.full
        if self.lost(full, network.graph(view.masks)):
            raise Infeasible(f"{self.what}: not even all weights that are left would do, so no choice among them can")
        wiring = Wiring(view, scores, self.max_memory)
        cheap = wiring.flat(masks).numpy()
        smallest: Tensors | None = None
        for having in (cheap, None):  # first what is selected anyway, then the fewest weights
            for plan in self.plans(view):
                wiring.core[:] = False
                if not plan(wiring, having):
                    continue
                needed = wiring.needed()
                if smallest is None or _size(needed) < _size(smallest):
                    smallest = needed
                found = choose({n: torch.where(needed[n], torch.inf, s.to(torch.float64)) for n, s in scores.items()})
                if self.lost(full, network.graph(found)) == 0:
                    return found
        raise Infeasible(self._why(masks, smallest))

    def _why(self, masks: Tensors, smallest: Tensors | None) -> str:
        if smallest is None:
            return f"{self.what}: no way was found"
        layers = ", ".join(f"{n} {int(m.sum())} of {int(masks[n].sum())}" for n, m in smallest.items())
        return (
            f"{self.what}: the fewest weights found that do are {_size(smallest)}, and the budget is {_size(masks)} "
            f"(needed of what the masks would keep: {layers}). Ask for a higher density, or for a scope that lets "
            "layers share a budget (Global)"
        )


def _size(masks: Tensors) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


class OutputsAlive(Connectivity):
    """Every output is reached from some input."""

    what = "every output alive"

    def lost(self, full: StructureGraph, now: StructureGraph) -> int:
        wanted = flows(full)[0] & full.is_output & full.is_node
        return int((wanted & ~flows(now)[0]).sum())

    def plans(self, view: View) -> Iterator[Plan]:
        outputs = _ids(view.network.full, flows(view.network.full)[0] & view.network.full.is_output)
        yield lambda wiring, cheap: wiring.grow(wiring.inputs, outputs, cheap, False)


class NoDead(Connectivity):
    """Every output is reached, and every hidden unit is on a path from an input to an output."""

    what = "no dead units"

    def _wanted(self, full: StructureGraph) -> Tensor:
        ahead, back = flows(full)
        return ahead & back & full.is_node & ~full.is_source

    def lost(self, full: StructureGraph, now: StructureGraph) -> int:
        ahead, back = flows(now)
        return int((self._wanted(full) & ~(ahead & back)).sum())

    def plans(self, view: View) -> Iterator[Plan]:
        units = _ids(view.network.full, self._wanted(view.network.full))

        def plan(wiring: Wiring, cheap: np.ndarray | None) -> bool:
            # against the edges first: where layers get narrower, that takes the most weights
            there = wiring.grow(wiring.outputs, units, cheap, True)
            there = there and wiring.grow(wiring.inputs, units, cheap, False)
            wiring.thin()
            return there

        yield plan


class Connected(Connectivity):
    """Every output is reached from every input that reaches it in the whole model."""

    what = "all input-output pairs connected"

    def lost(self, full: StructureGraph, now: StructureGraph) -> int:
        return int((pairs(full) & ~pairs(now)).sum())

    def plans(self, view: View) -> Iterator[Plan]:
        full = view.network.full
        wanted = pairs(full).numpy()
        inputs, outputs = full.input_nodes(), full.output_nodes()
        some_in, some_out = inputs[wanted.any(1)], outputs[wanted.any(0)]
        if wanted[wanted.any(1)][:, wanted.any(0)].all():
            for k in range(_HUBS):
                yield lambda wiring, cheap, k=k: self._through_hub(wiring, cheap, k, some_in, some_out)  # type: ignore[misc]

        def each(wiring: Wiring, cheap: np.ndarray | None) -> bool:
            return all(
                wiring.grow([output], inputs[wanted[:, k]], cheap, True)
                for k, output in enumerate(outputs)
                if wanted[:, k].any()
            )

        yield each

    def _through_hub(
        self, wiring: Wiring, cheap: np.ndarray | None, rank: int, inputs: np.ndarray, outputs: np.ndarray
    ) -> bool:
        """One unit that all inputs reach and that reaches all outputs: the best of the layer `rank`."""
        strength = wiring.strength()
        ends = np.zeros(wiring.nodes, bool)
        ends[inputs] = ends[outputs] = True
        best: dict[int, int] = {}
        for node in np.argsort(-strength, kind="stable"):
            if not ends[node]:
                best.setdefault(int(wiring.space[node]), int(node))
        hubs = list(best.values())
        if rank >= len(hubs):
            return False
        return wiring.grow([hubs[rank]], inputs, cheap, True) and wiring.grow([hubs[rank]], outputs, cheap, False)


class AllOf(Connectivity):
    """Several constraints at once: the needs of all of them together."""

    def __init__(self, *constraints: Connectivity) -> None:
        super().__init__(max((c.max_memory for c in constraints), default=4 << 30))
        self.constraints = constraints
        self.what = " and ".join(c.what for c in constraints)

    def lost(self, full: StructureGraph, now: StructureGraph) -> int:
        return sum(c.lost(full, now) for c in self.constraints)

    def plans(self, view: View) -> Iterator[Plan]:
        options = [list(c.plans(view)) for c in self.constraints]
        for k in range(max((len(o) for o in options), default=0)):
            chosen = [o[min(k, len(o) - 1)] for o in options]
            yield lambda wiring, cheap, chosen=chosen: all(plan(wiring, cheap) for plan in chosen)  # type: ignore[misc]


def _ids(graph: StructureGraph, slots: Tensor) -> np.ndarray:
    found: np.ndarray = graph.node_ids()[slots & graph.is_node].numpy()
    return found


def outputs_alive(max_memory: int = 4 << 30) -> OutputsAlive:
    """No output may be cut off from all inputs."""
    return OutputsAlive(max_memory)


def no_dead(max_memory: int = 4 << 30) -> NoDead:
    """No hidden unit may be off all input-output paths, and no output cut off."""
    return NoDead(max_memory)


def connected(max_memory: int = 4 << 30) -> Connected:
    """Every input must reach every output (that it reaches in the whole model)."""
    return Connected(max_memory)
