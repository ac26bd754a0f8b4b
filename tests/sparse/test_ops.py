"""The ops against plain matrix products: values, gradients, opcheck, compile, vmap."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from deepstruct.errors import InputError
from deepstruct.functional import build_structure, masked_linear, sparse_linear
from deepstruct.sparse import extension, layout, reference
from deepstruct.sparse.structure import of_mask

OP = torch.ops.deepstruct.sparse_linear
needs_extension = pytest.mark.skipif(extension.path() is None, reason="the extension is not built")


def random_case(rows: int, cols: int, batch: int, density: float, dtype=torch.float64, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, cols, generator=g) < density
    weight = torch.randn(rows, cols, generator=g, dtype=dtype)
    x = torch.randn(batch, cols, generator=g, dtype=dtype)
    return mask, weight, x


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 600),
    cols=st.integers(0, 300),
    batch=st.sampled_from([0, 1, 2, 7, 15, 16, 17, 33, 48, 63, 64, 65, 130]),
    density=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 5),
)
def test_forward_and_backward_equal_the_dense_layer(rows, cols, batch, density, dtype, seed):
    mask, weight, x = random_case(rows, cols, batch, density, dtype, seed)
    structure, where = of_mask(mask)
    values = weight.view(-1)[where].requires_grad_()
    bias = torch.randn(rows, dtype=dtype).requires_grad_()
    x.requires_grad_()
    y = sparse_linear(x, values, structure, rows, bias)
    dense = (weight * mask).requires_grad_()
    wanted = torch.nn.functional.linear(x, dense, bias)
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {}
    torch.testing.assert_close(y, wanted, **close)
    grad = torch.randn_like(wanted)
    got = torch.autograd.grad(y, (x, values, bias), grad)
    expected = torch.autograd.grad(wanted, (x, dense, bias), grad)
    torch.testing.assert_close(got[0], expected[0], **close)
    torch.testing.assert_close(got[1], expected[1].reshape(-1)[where], **close)
    torch.testing.assert_close(got[2], expected[2], **close)


@pytest.mark.parametrize("shape", [(1300, 700), (513, 257), (1, 1), (3, 900)])
@pytest.mark.parametrize("block", [128, 256, 260, 2048])
def test_the_built_layout_is_the_reference_layout(shape, block):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.2
    rows, cols = mask.nonzero(as_tuple=True)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    built = torch.ops.deepstruct.build_layout(starts, cols, shape[1], block)
    again = reference.build_layout(starts, cols, shape[1], block)
    assert all(torch.equal(a, b) for a, b in zip(built, again, strict=True))
    found = layout.coordinates(*built[:3])
    assert torch.equal(found[0], rows[built[3].long()])
    assert torch.equal(found[1], cols[built[3].long()])
    layout.check(*built[:3])


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 600),
    cols=st.integers(0, 300),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    strided=st.booleans(),
)
def test_dense_weights_are_read_and_written_on_the_support(rows, cols, density, dtype, strided):
    mask, weight, _ = random_case(rows, cols, 0, density, dtype)
    structure, where = of_mask(mask)
    given_weight = weight.T.contiguous().T if strided else weight
    values = torch.ops.deepstruct.read_support(given_weight, *structure[:3])
    assert torch.equal(values, weight.reshape(-1)[where])
    out = torch.full_like(weight, torch.nan)
    torch.ops.deepstruct.write_support(values, *structure[:3], out)
    assert torch.equal(out, torch.where(mask, weight, 0.0))


def test_opcheck_of_reading_and_writing():
    mask, weight, _ = random_case(20, 30, 0, 0.3, torch.float32)
    structure, _ = of_mask(mask)
    values = torch.ops.deepstruct.read_support(weight, *structure[:3])
    torch.library.opcheck(torch.ops.deepstruct.read_support, (weight, *structure[:3]))
    torch.library.opcheck(torch.ops.deepstruct.write_support, (values, *structure[:3], weight.clone()))


@needs_extension
def test_the_kernels_refuse_weights_that_do_not_fit():
    mask, weight, _ = random_case(20, 30, 0, 0.3, torch.float32)
    structure, _ = of_mask(mask)
    values = torch.ops.deepstruct.read_support(weight, *structure[:3])
    with pytest.raises(RuntimeError, match="of the structure's size"):
        torch.ops.deepstruct.read_support(weight[:10], *structure[:3])
    with pytest.raises(RuntimeError, match="of the structure's size"):
        torch.ops.deepstruct.write_support(values, *structure[:3], weight.double())
    with pytest.raises(RuntimeError, match="as many values"):
        torch.ops.deepstruct.write_support(values[1:], *structure[:3], weight)


@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_eager_mode_and_the_op_agree(frozen):
    """Eager mode has an autograd function of its own, with the same kernels: equal to the last bit."""
    mask, weight, x = random_case(40, 30, 9, 0.3)
    structure, where = of_mask(mask)
    operands = [x, weight.view(-1)[where], torch.randn(40, dtype=torch.float64)]
    for i, operand in enumerate(operands):
        operand.requires_grad_(i not in frozen)
    x, values, bias = operands
    eager, op = sparse_linear(x, values, structure, 40, bias), OP(x, values, bias, *structure, 40)
    assert torch.equal(eager, op)
    assert eager.requires_grad == op.requires_grad == (len(frozen) < 3)
    learned = [operand for operand in operands if operand.requires_grad]
    if learned:
        found, wanted = (torch.autograd.grad(y.square().sum(), learned) for y in (eager, op))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    with torch.inference_mode():
        assert torch.equal(sparse_linear(x, values, structure, 40, bias), op)


@pytest.mark.parametrize("batch", [1, 5, 20])
def test_gradcheck(batch):
    mask, weight, x = random_case(7, 9, batch, 0.4)
    structure, where = of_mask(mask)
    values, bias = (
        weight.view(-1)[where].requires_grad_(),
        torch.randn(7, dtype=torch.float64).requires_grad_(),
    )
    x.requires_grad_()

    def run(x, values, bias):
        return sparse_linear(x, values, structure, 7, bias)

    assert gradcheck(run, (x, values, bias))
    assert gradgradcheck(run, (x, values, bias))


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_gradcheck_masked(backend):
    mask, weight, x = random_case(6, 8, 3, 0.5)
    weight.requires_grad_()
    x.requires_grad_()
    bias = torch.randn(6, dtype=torch.float64).requires_grad_()

    def run(x, weight, bias):
        return masked_linear(x, weight, mask, bias, backend)

    assert gradcheck(run, (x, weight, bias))
    assert gradgradcheck(run, (x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    mask, weight, x = random_case(20, 30, 6, 0.3, dtype)
    structure, where = of_mask(mask)
    values = weight.view(-1)[where].requires_grad_()
    bias = torch.randn(20, dtype=dtype).requires_grad_()
    torch.library.opcheck(OP, (x.requires_grad_(), values, bias, *structure, 20))
    torch.library.opcheck(OP, (x, values, None, *structure, 20))
    backward = torch.ops.deepstruct.sparse_linear_backward
    grad = torch.randn(6, 20, dtype=dtype)
    torch.library.opcheck(backward, (grad, x, values, *structure, True, True))
    torch.library.opcheck(backward, (grad, x, values, *structure, True, False))


def test_strided_inputs_and_leading_axes():
    mask, weight, _ = random_case(12, 10, 1, 0.5, torch.float32)
    structure, where = of_mask(mask)
    values = weight.view(-1)[where]
    x = torch.randn(10, 3, 4).permute(2, 1, 0)
    wanted = torch.nn.functional.linear(x, weight * mask)
    torch.testing.assert_close(sparse_linear(x, values, structure, 12), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masked_linear(x, weight, mask, None, "sparse"), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        sparse_linear(x[0, 0], values, structure, 12), wanted[0, 0], rtol=1e-4, atol=1e-5
    )
    spread = torch.empty(len(values) * 2)[::2].copy_(values)
    torch.testing.assert_close(sparse_linear(x, spread, structure, 12), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    mask, weight, x = random_case(16, 700, 20, 0.5, torch.float32)
    structure, where = of_mask(mask)
    low = sparse_linear(x.to(dtype), weight.view(-1)[where].to(dtype), structure, 16)
    assert low.dtype == dtype
    wanted = (x.to(dtype).float() @ (weight.to(dtype).float() * mask).T).to(dtype)
    torch.testing.assert_close(low, wanted)


def test_vmap_and_func_grad():
    mask, weight, _ = random_case(5, 6, 1, 0.5)
    structure, where = of_mask(mask)
    values = weight.view(-1)[where]
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    dense = weight * mask
    run = torch.func.vmap(lambda x: sparse_linear(x, values, structure, 5))
    torch.testing.assert_close(run(x), x @ dense.T)
    per_sample = torch.func.vmap(
        torch.func.grad(lambda v, x: sparse_linear(x, v, structure, 5).sum()), (None, 0)
    )
    wanted = torch.stack([x[i].sum(0).expand(5, 6)[mask] for i in range(4)])
    rows, cols = mask.nonzero(as_tuple=True)
    order = (rows * 6 + cols)[:, None].eq(where[None]).int().argmax(0)
    torch.testing.assert_close(per_sample(values, x), wanted[:, order])
    masked = torch.func.vmap(lambda x: masked_linear(x, weight, mask))
    torch.testing.assert_close(masked(x), x @ dense.T)


@needs_extension
def test_results_do_not_depend_on_threads():
    mask, weight, x = random_case(1100, 400, 150, 0.1, torch.float32)
    structure, where = of_mask(mask)
    values = weight.view(-1)[where].requires_grad_()
    x.requires_grad_()
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            y = sparse_linear(x, values, structure, 1100)
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, values))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_bad_arguments_are_refused():
    mask, weight, x = random_case(4, 6, 2, 0.5, torch.float32)
    with pytest.raises(InputError, match="expected 6 in its last axis"):
        masked_linear(x[:, :5], weight, mask)
    with pytest.raises(InputError, match="boolean"):
        masked_linear(x, weight, mask.float())
    with pytest.raises(InputError, match="shape"):
        masked_linear(x, weight, mask.T)
    with pytest.raises(InputError, match="meta"):
        masked_linear(x, weight, mask.to("meta"))
    with pytest.raises(InputError, match="backend"):
        masked_linear(x, weight, mask, backend="fast")
    with pytest.raises(InputError, match="floating"):
        masked_linear(x.long(), weight, mask)


@needs_extension
def test_the_kernels_refuse_operands_that_do_not_fit():
    mask, weight, x = random_case(4, 6, 2, 0.5, torch.float32)
    structure, where = of_mask(mask)
    values = weight.view(-1)[where]
    with pytest.raises(RuntimeError, match="batch, 6"):
        OP(x[:, :5], values, None, *structure, 4)
    with pytest.raises(RuntimeError, match="as many values"):
        OP(x, values[1:], None, *structure, 4)
    with pytest.raises(RuntimeError, match="number of rows"):
        OP(x, values, None, *structure, 5)
    with pytest.raises(RuntimeError, match="does not fit"):
        OP(x, values, None, structure.table, structure.row_ids[1:], *structure[2:], 4)
    with pytest.raises(RuntimeError, match="dtype"):
        OP(x.double(), values, None, *structure, 4)


def test_structure_of_coordinates():
    rows, cols = torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0])
    structure, order = build_structure(rows, cols, (3, 4))
    values = torch.tensor([1.0, 2.0, 3.0])[order]
    y = sparse_linear(torch.eye(4), values, structure, 3)
    assert torch.equal(y.T, torch.tensor([[0.0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0]]))


@pytest.mark.parametrize("damage", ["version", "column", "row", "run", "short", "dtype"])
def test_damaged_structures_are_found(damage):
    table, row_ids, columns, _ = (t.clone() for t in of_mask_layout())
    if damage == "version":
        table[0] = 9
    elif damage == "column":
        columns[0] = 200
    elif damage == "row":
        row_ids[0] = -3
    elif damage == "run":
        table[-1] += 1
    elif damage == "short":
        table = table[:-2]
    else:
        table = table.long()
    with pytest.raises(InputError, match="structure"):
        layout.check(table, row_ids, columns)


def of_mask_layout():
    mask = torch.rand(40, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    rows, cols = mask.nonzero(as_tuple=True)
    return layout.build_reference(rows, cols, (40, 50), 128)
