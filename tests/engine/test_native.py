"""The compiled kernels against lists of edges: every semiring, operator, direction, layout and number of threads."""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import random_nets
import torch

from deepstruct import _native, extract
from deepstruct._build import stamp
from deepstruct.engine import native, passes, sweeps
from deepstruct.engine.semiring import BOOLEAN, LONGEST, SHORTEST, Counting, Modular
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Conv, EdgeOperator, Identity, Matmul, Separable, Sparse, WeightRef

ROOT = Path(__file__).resolve().parents[2]
needs_kernels = pytest.mark.skipif(not native.available(), reason="the compiled graph kernels are not built")
PRIME = 2**45 - 55
INF = math.inf
NOTHING = {
    "sum_f32": 0, "sum_f64": 0, "mod": 0, "or_u8": 0, "or_u64": 0, "min_u16": 65535, "max_u16": 0,
    "min_i32": 2**31 - 1, "max_i32": -1, "widest_f32": 0, "min_f32": INF, "max_f32": -INF,
}  # fmt: skip
WEIGHTED = ("sum_f32", "sum_f64", "widest_f32", "min_f32", "max_f32")


@pytest.fixture(autouse=True)
def sparse_at_any_density(monkeypatch):
    """The kernels take dense weights too, and the number of threads is put back."""
    monkeypatch.setattr(native, "_DENSE", {"sum_f32": 2.0, "sum_f64": 2.0})
    yield
    native.set_threads(0)


def operand(*shape: int) -> Operand:
    return Operand.strided(shape, torch.empty(shape, device="meta").stride(), 0)


# -- random operators


def weights(shape: tuple[int, ...], rng: random.Random) -> torch.Tensor:
    density = rng.choice([0, 0.1, 0.5, 0.97, 1, 1])
    return torch.randint(1, 5, shape).double() * (torch.rand(shape) < density)


def some_conv(rng: random.Random) -> Conv:
    rank, groups, transposed = rng.choice([1, 2, 3]), rng.choice([1, 1, 2, 3]), rng.random() < 0.4
    inner, outer = groups * rng.choice([1, 2, 4]), groups * rng.choice([1, 2, 3])
    many = range(rank)
    kernel, stride, dilation, padding, size = (
        tuple(rng.choice(choices) for _ in many)
        for choices in ([1, 2, 3], [1, 2, 3], [1, 2], [0, 1, 2], [3, 5, 6, 7])
    )
    extra = (0,) * rank
    if transposed:
        extra = tuple(rng.randrange(max(stride[a], dilation[a])) for a in many)
        out = [(size[a] - 1) * stride[a] - 2 * padding[a] + dilation[a] * (kernel[a] - 1) + extra[a] + 1 for a in many]
        shape = (inner, outer // groups, *kernel)
    else:
        out = [(size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in many]
        shape = (outer, inner // groups, *kernel)
    if min(out) < 1:
        return some_conv(rng)
    weight = torch.empty(shape, device="meta") if rng.random() < 0.15 else weights(shape, rng)
    return Conv(
        operand(1, inner, *size), operand(1, outer, *out), WeightRef(("w",), weight), stride, padding, dilation,
        transposed, extra, groups,
    )  # fmt: skip


def some_product(rng: random.Random) -> Matmul:
    inner, outer = rng.choice([1, 3, 20]), rng.choice([1, 4, 17])
    lead = rng.choice([(), (1,), (5,), (2, 3), (1, 7, 1), (2, 2, 3, 2)])
    sides = operand(*lead, inner), operand(*lead, outer)
    kind = rng.randrange(4)
    if kind == 0:
        return Matmul(*sides)
    if kind == 1 and len(lead) >= 2:  # a mix, with a pattern for each head, or one for all
        shared = tuple(1 if rng.random() < 0.3 else n for n in lead[:-1])
        return Matmul(*sides, None, torch.rand(*shared, inner, outer) < rng.choice([0.2, 0.9, 1]))
    weight = weights((inner, outer), rng)
    return Matmul(*sides, WeightRef(("w",), weight.T.contiguous().T if kind == 2 else weight))


def some_windows(rng: random.Random) -> Separable:
    shape = [rng.choice([1, 2, 3, 5]) for _ in range(rng.choice([1, 2, 3, 4]))]
    axes = [None if rng.random() < 0.3 else torch.rand(rng.choice([1, 2, 4]), n) < rng.choice([0.3, 1]) for n in shape]
    out = [n if axis is None else axis.shape[0] for n, axis in zip(shape, axes, strict=True)]
    return Separable(operand(*shape), operand(*out), axes)


def some_list(rng: random.Random) -> Sparse:
    source, target, edges = (rng.choice([1, 4, 9]), 2), (3, rng.choice([1, 5])), rng.choice([0, 1, 20])
    weight = None if rng.random() < 0.5 else WeightRef(("w",), weights((edges,), rng))
    rows, cols = (torch.randint(0, math.prod(shape), (edges,)) for shape in (source, target))
    return Sparse(operand(*source), operand(*target), rows, cols, weight)


def some_identity(rng: random.Random) -> Identity:
    shape = tuple(rng.choice([1, 3, 4]) for _ in range(3))
    op = Identity(operand(*shape), operand(*shape))
    op.fused = rng.choice([False, True, torch.rand(shape) < 0.5])
    return op


KINDS: dict[str, Callable[[random.Random], EdgeOperator]] = {
    "conv": some_conv, "product": some_product, "windows": some_windows, "list": some_list, "identity": some_identity,
}  # fmt: skip


# -- the witness: one edge after the other, in Python numbers


def edge_list(op: EdgeOperator) -> list[tuple[int, int, float, int]]:
    """(source, target, weight, whether it counts as an edge of the graph)."""
    if isinstance(op, Identity):
        kept = op.kept()
        counts = [1] * op.source.numel if kept is None else kept.reshape(-1).int().tolist()
        return [(i, i, 1.0, counts[i]) for i in range(op.source.numel)]
    return [
        (s, t, w, 1)
        for part in op.edges()
        for s, t, w in zip(
            part.source.tolist(), part.target.tolist(), part.weight.nan_to_num(1.0).tolist(), strict=True
        )
    ]


def along(name: str, x: float, weight: float, counts: int, weighted: bool) -> float:
    if name in ("sum_f32", "sum_f64"):
        return x * weight if weighted else x
    if name == "widest_f32":
        return min(x, weight) if weighted else x
    if name in ("min_f32", "max_f32"):
        return x + (weight if weighted else counts)
    if name in ("mod", "or_u8", "or_u64") or x == NOTHING[name]:
        return x
    return x + counts


def joined(name: str, a: float, b: float) -> float:
    if name.startswith("sum"):
        return a + b
    if name == "mod":
        return (a + b) % PRIME
    if name.startswith("or"):
        return int(a) | int(b)
    return min(a, b) if name.startswith("min") else max(a, b)


def expected(
    op: EdgeOperator, name: str, x: list[float], start: list[float], transpose: bool, weighted: bool
) -> list[float]:
    out = list(start)
    for source, target, weight, counts in edge_list(op):
        if transpose:
            source, target = target, source
        out[target] = joined(name, out[target], along(name, x[source], weight, counts, weighted))
    return out


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name == "mod":
        return torch.randint(0, PRIME, shape)
    if name == "or_u8":
        return torch.randint(0, 256, shape).to(torch.uint8)
    if name == "or_u64":
        return torch.randint(-(2**62), 2**62, shape)
    values = torch.randint(0, 9, shape).double()
    if not name.startswith("sum"):
        values[torch.rand(shape) < 0.4] = NOTHING[name]
    return values.to(torch.int64).to(torch.uint16) if name.endswith("u16") else values.to(native.DTYPES[name][0])


def numbers(x: torch.Tensor) -> list[float]:
    return (x.to(torch.int64) if x.dtype == torch.uint16 else x).reshape(-1).tolist()


def scattered(x: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """The same values with gaps between them and the axes in another order."""
    order = list(range(x.dim()))
    rng.shuffle(order)
    steps = [rng.choice([1, 2]) for _ in order]
    wide = torch.zeros([x.shape[a] * steps[a] for a in order], dtype=x.dtype)
    view = wide.permute([order.index(a) for a in range(x.dim())])[tuple(slice(None, None, step) for step in steps)]
    view.copy_(x)
    return view


@needs_kernels
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_do_what_the_edges_say(kind, seed):
    rng = random.Random(f"{kind} {seed}")
    op = KINDS[kind](rng)
    has_weights = op.weight is not None and not op.weight.tensor.is_meta
    for name in NOTHING:
        for transpose in (False, True):
            read, written = (op.target, op.source) if transpose else (op.source, op.target)
            for mode in ("pattern", "abs") if has_weights and name in WEIGHTED else ("pattern",):
                x = draw(name, read.shape)
                if rng.random() < 0.3:
                    x = x.reshape(-1)[:1].reshape([1] * x.dim()).expand(read.shape)
                else:
                    x = scattered(x, rng)
                before, join = draw(name, written.shape), rng.random() < 0.6
                start = numbers(before) if join else [NOTHING[name]] * before.numel()
                wanted = expected(op, name, numbers(x), start, transpose, mode != "pattern")
                outs = []
                for count in (1, 2):
                    native.set_threads(count)
                    out = scattered(before, random.Random(seed))
                    assert native.push(
                        op, name, x, out, transpose=transpose, prime=PRIME if name == "mod" else 0, mode=mode, join=join
                    )
                    outs.append(numbers(out))
                assert outs[0] == wanted, (name, transpose, mode, join)
                assert outs[1] == outs[0]


@needs_kernels
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["conv", "product"])
def test_one_value_everywhere_arrives_without_a_pattern(kind, seed):
    rng = random.Random(f"{kind} {seed} one value")
    op = KINDS[kind](rng)
    while op.weight is None:  # a mix
        op = KINDS[kind](rng)
    native.clear()
    for name, transpose, join in itertools.product(native._SELECTING, (False, True), (False, True)):
        read, written = (op.target, op.source) if transpose else (op.source, op.target)
        for value in (draw(name, (1,)), torch.tensor([NOTHING[name]]).to(native.DTYPES[name][0])):
            x = scattered(value.expand(read.numel).reshape(read.shape), rng)
            before = draw(name, written.shape)
            start = numbers(before) if join else [NOTHING[name]] * before.numel()
            out = scattered(before, rng)
            assert native.push(op, name, x, out, transpose=transpose, join=join)
            assert numbers(out) == expected(op, name, numbers(x), start, transpose, False), (name, transpose, join)
    plan = native._CACHE.get(op)
    assert set(plan.joined) == {False, True}
    assert not plan.passes


@needs_kernels
@pytest.mark.parametrize("kind", ["conv", "product", "windows", "list"])
def test_directions_are_adjoint(kind):
    rng = random.Random(kind)
    for _ in range(5):
        op = KINDS[kind](rng)
        x, y = (torch.randint(-9, 9, side.shape).double() for side in (op.source, op.target))
        ax, aty = torch.empty(op.target.shape, dtype=x.dtype), torch.empty(op.source.shape, dtype=x.dtype)
        assert native.push(op, "sum_f64", x, ax, join=False)
        assert native.push(op, "sum_f64", y, aty, transpose=True, join=False)
        assert (ax * y).sum() == (x * aty).sum()
        assert torch.equal(ax, op.forward(x).expand(ax.shape))
        assert torch.equal(aty, op.backward(y).expand(aty.shape))


@needs_kernels
@pytest.mark.parametrize("seed", range(8))
def test_sweeps_with_and_without_kernels_agree(seed, monkeypatch):
    model, example = random_nets.random_net(seed)
    graph = extract(model, example)
    start = torch.where(graph.is_source, 0, -1).to(torch.int32)
    runs = {
        "count": lambda: passes.paths_from_sources(graph),
        "mod": lambda: sweeps.sweep(graph, graph.is_source, Modular(2**31 - 1)),
        "norm": lambda: sweeps.sweep(graph, graph.is_source, Counting(mode="square")),
        "marks": lambda: sweeps.sweep(graph, graph.is_output, BOOLEAN, transpose=True),
        "longest": lambda: sweeps.sweep(graph, start, LONGEST),
        "shortest": lambda: sweeps.sweep(graph, start, SHORTEST),
        "degree": lambda: passes.in_degree(graph),
        "out degree": lambda: passes.out_degree(graph),
        "number": lambda: torch.tensor(float(passes.path_count(graph))),
    }
    with_kernels = {name: run() for name, run in runs.items()}
    monkeypatch.setenv("DEEPSTRUCT_NATIVE", "0")
    assert not native.available()
    for name, run in runs.items():
        if name == "norm":
            torch.testing.assert_close(with_kernels[name], run())
        else:
            assert torch.equal(with_kernels[name], run()), name


@needs_kernels
def test_source_and_target_may_be_the_same_memory():
    slots = torch.arange(12.0)
    op = Conv(
        operand(1, 1, 6), operand(1, 1, 6), WeightRef(("w",), torch.ones(1, 1, 3)), (1,), (1,), (1,), False, (0,), 1
    )
    wanted = op.forward(slots[:6].view(1, 1, 6).clone())
    assert native.push(op, "sum_f32", slots[:6].view(1, 1, 6), slots[3:9].view(1, 1, 6), join=False)
    assert torch.equal(slots[3:9], wanted.reshape(-1))


@needs_kernels
def test_what_is_not_supported_is_left_to_torch():
    op = Matmul(operand(2, 3), operand(2, 4), WeightRef(("w",), torch.ones(3, 4)))
    x, out = torch.ones(2, 3), torch.full((2, 4), 7.0)
    assert not native.push(op, "no such semiring", x, out)
    assert not native.push(op, "sum_f64", x, out)  # another dtype
    assert not native.push(op, "or_u8", x.to(torch.uint8), out.to(torch.uint8), mode="abs")
    numbers_ = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)
    assert not native.push(op, "mod", *numbers_, prime=2**62)  # sums would overflow
    assert torch.equal(out, torch.full((2, 4), 7.0))


@needs_kernels
def test_dense_weights_are_torchs_work(monkeypatch):
    monkeypatch.undo()
    weight = torch.ones(40, 40)
    op = Matmul(operand(50, 40), operand(50, 40), WeightRef(("w",), weight))
    x, out = torch.ones(50, 40), torch.empty(50, 40)
    assert native.push(op, "sum_f32", x, out, join=False)  # the pattern alone: a sum and a broadcast
    assert not native.push(op, "sum_f32", x, out, mode="abs", join=False)
    thin = Matmul(operand(50, 40), operand(50, 40), WeightRef(("w",), weight * (torch.rand(40, 40) < 0.05)))
    assert native.push(thin, "sum_f32", x, out, mode="abs", join=False)


@needs_kernels
def test_plans_follow_the_weights_and_keep_to_their_limit(monkeypatch):
    native.clear()
    weight = (torch.rand(60, 60) < 0.2).double()
    op = Matmul(operand(1, 60), operand(1, 60), WeightRef(("w",), weight))
    x, out = torch.rand(1, 60, dtype=torch.float64), torch.empty(1, 60, dtype=torch.float64)
    assert native.push(op, "sum_f64", x, out, join=False)
    assert native.plan_bytes() > 4 * int(weight.sum())
    weight[:, 0] = 1
    assert native.push(op, "sum_f64", x, out, join=False)
    torch.testing.assert_close(out[0, 0], x.sum())
    monkeypatch.setattr(native._CACHE, "limit", native.plan_bytes() + 100)
    other = Matmul(operand(1, 60), operand(1, 60), WeightRef(("v",), weight.clone()))
    assert native.push(other, "sum_f64", x, out, join=False)
    assert native.plan_bytes() <= native._CACHE.limit
    torch.testing.assert_close(out, x @ weight)
    del op, other
    gc.collect()
    assert native.plan_bytes() == 0


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPSTRUCT_NATIVE": "1", **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


USE = (
    "import torch, deepstruct\n"
    "from deepstruct.engine import native, passes\n"
    "net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))\n"
    "graph = deepstruct.extract(net, torch.ones(1, 4))\n"
    "print(native.isa(), passes.path_count(graph), passes.path_count(graph))\n"
)


def test_without_a_library_one_line_says_so(tmp_path):
    done = python(USE, DEEPSTRUCT_GRAPH_LIBRARY=str(tmp_path / "none.so"))
    assert done.stdout.split() == ["pytorch", "40", "40"]
    assert [line for line in done.stderr.splitlines() if "deepstruct" in line] == [
        "deepstruct: graph metrics run on plain PyTorch (extension: not built); `deepstruct build-ext` builds it"
    ]


def test_switched_off_kernels_are_silent():
    done = python(USE, DEEPSTRUCT_NATIVE="0")
    assert done.stdout.split() == ["pytorch", "40", "40"]
    assert "deepstruct" not in done.stderr


def test_a_broken_library_is_named_and_left_alone(tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF and no more")
    done = python(USE, DEEPSTRUCT_GRAPH_LIBRARY=str(broken))
    assert done.stdout.split() == ["pytorch", "40", "40"]
    assert str(broken) in done.stderr


@needs_kernels
def test_a_library_of_other_sources_is_named_and_left_alone(tmp_path):
    """An older one does not know all that it would be called with."""
    library = Path(_native.load().__file__)
    older = tmp_path / library.name
    older.write_bytes(library.read_bytes().replace(stamp("graph").encode(), b"0" * 16))
    done = python(USE, DEEPSTRUCT_GRAPH_LIBRARY=str(older))
    assert done.stdout.split() == ["pytorch", "40", "40"]
    assert f"{older} does not load: it was built from other sources" in done.stderr


@needs_kernels
@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512"])
def test_an_instruction_set_can_be_forced(isa):
    done = python(USE, DEEPSTRUCT_ISA=isa)
    found, *counts = done.stdout.split()
    assert found in ("plain", "avx2", "avx512")
    assert counts == ["40", "40"]
    assert done.stderr == ""
