"""Cases of the operations that only move elements (see cases.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.ops import aten

from .cases import CANCELS, GRID, GRID3, case, fn, r

# -- renaming ------------------------------------------------------------------------------------------

fn("view", lambda x: x.view(1, 2, 6), r(1, 3, 4))
fn("reshape after permute", lambda x, w: x.permute(0, 2, 1).reshape(1, -1) @ w, r(1, 3, 4), weights={"w": r(12, 2)})
fn("transpose", lambda x, w: x.transpose(1, 2) @ w, r(1, 3, 4), weights={"w": r(3, 2)})
fn("t", lambda x, w: x.t() @ w, r(3, 4), weights={"w": r(3, 2)})
fn("expand", lambda x, w: x.expand(2, 3, 4) @ w, r(1, 3, 4), weights={"w": r(4, 2)})
fn("slices", lambda x: x[:, 1:3] * x[:, ::2], r(1, 4))
fn("select", lambda x: x[:, 1] + x[:, -1], r(1, 4, 2))
fn("squeeze", lambda x: x.unsqueeze(1).squeeze(1).squeeze(), r(1, 4))
fn("split", lambda x: torch.split(x, [1, 3], 1), r(1, 4))
fn("split equal", lambda x: torch.split(x, 2, 1)[1], r(1, 4))
fn("chunk", lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], r(1, 4))
fn("unbind", lambda x: x.unbind(1)[1], r(1, 4))
fn("diagonal", lambda x: x.diagonal(dim1=1, dim2=2), r(1, 3, 3))
fn("unfold dim", lambda x, w: x.unfold(1, 3, 2) @ w, r(1, 7), weights={"w": r(3, 2)})
fn("flatten", lambda x: x.flatten(1).unflatten(1, (4, 3)), r(1, 3, 4))
fn("movedim", lambda x: x.movedim(1, 2).swapaxes(0, 1).narrow(1, 0, 1), r(1, 3, 4))
fn("as_strided", lambda x: x.contiguous().as_strided((2, 2), (2, 1)), r(1, 4))
fn("detach", lambda x: x.detach() * 2, r(1, 4), replay=False)
fn("flip", lambda x: x.flip(1), r(1, 4))
fn("roll", lambda x: x.roll(1, 1), r(1, 4))
fn("rot90", lambda x: torch.rot90(x, 1, (1, 2)), r(1, 2, 3))
fn("repeat", lambda x, w: x.repeat(1, 2) @ w, r(1, 3), weights={"w": r(6, 2)})
fn("tile", lambda x: torch.tile(x, (1, 2)), r(1, 3))
fn("repeat_interleave", lambda x: x.repeat_interleave(2, 1), r(1, 3))
fn("repeat_interleave tensor", lambda x: torch.repeat_interleave(x, torch.tensor([1, 2, 0]), dim=1), r(1, 3))
fn("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), r(1, 4, 2, 2))
fn("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), r(1, 1, 4, 4))
case("channel shuffle", lambda: nn.ChannelShuffle(2), r(1, 4, 2, 2))
fn("cat", lambda x, y: torch.cat([x, y], 1), r(1, 3), r(1, 2))
fn("cat with a constant", lambda x, w: torch.cat([x, w.expand(1, 2)], 1), r(1, 3), weights={"w": r(2)})
fn("stack", lambda x, y: torch.stack([x, y], 1), r(1, 3), r(1, 3, seed=1))
fn("hstack vstack", lambda x, y: (torch.hstack([x, y]), torch.vstack([x, x])), r(1, 3), r(1, 2))
fn("tril triu", lambda x: x.tril() @ x.triu(1), r(3, 3))
fn("slice_scatter", lambda x, y: torch.slice_scatter(x, y, 1, 1, 3), r(1, 4), r(1, 2))
fn("select_scatter", lambda x, y: torch.select_scatter(x, y, 1, 2), r(1, 4), r(1))
fn("diagonal_scatter", lambda x, y: torch.diagonal_scatter(x, y), r(3, 3), r(3))
fn(
    "as_strided_scatter", lambda x, y: torch.as_strided_scatter(x, y, (2, 2), (1, 2)), r(2, 4), r(2, 2), replay=False
)  # its derivative in PyTorch is wrong: see test_rules.py
fn("index", lambda x: x[:, torch.tensor([2, 0])], r(1, 4, 2))
fn("index by two", lambda x: x[:, torch.tensor([2, 0]), torch.tensor([0, 1])], r(1, 4, 2))
fn("index by mask", lambda x: x[:, torch.tensor([True, False, True])], r(1, 3, 2))
fn("index_select", lambda x: x.index_select(1, torch.tensor([2, 0, 2])), r(1, 4))
fn("gather", lambda x: x.gather(1, torch.tensor([[2, 0]])), r(1, 4))
fn("take", lambda x: x.take(torch.tensor([3, 1])), r(1, 4))
fn("take_along_dim", lambda x: torch.take_along_dim(x, torch.tensor([[2, 0]]), 1), r(1, 4))
fn("index_put", lambda x, y: torch.index_put(x, (torch.tensor([0]), torch.tensor([2])), y), r(1, 4), r(1))
fn("index_put accumulate", lambda x, y: torch.index_put(
    x, (torch.tensor([0, 0, 0]), torch.tensor([2, 1, 2])), y, accumulate=True), r(1, 4), r(3))  # fmt: skip
fn("index_put into zeros", lambda y: torch.zeros(3, 2).index_put(
    (torch.tensor([0, 2, 0]),), y, accumulate=True), r(3, 2))  # fmt: skip
fn("index_copy", lambda x, y: torch.index_copy(x, 1, torch.tensor([2, 0]), y), r(1, 4), r(1, 2))
fn("index_fill", lambda x: torch.index_fill(x, 1, torch.tensor([2, 0]), 0.0), r(1, 4))
fn("index_add", lambda x, y: torch.index_add(x, 1, torch.tensor([2, 0, 2]), y), r(1, 4), r(1, 3))
fn("index_add into zeros", lambda y: torch.zeros(1, 4).index_add(1, torch.tensor([2, 0, 2]), y), r(1, 3))
fn("scatter", lambda x, y: torch.scatter(x, 1, torch.tensor([[2, 0]]), y), r(1, 4), r(1, 2))
fn("scatter number", lambda x: torch.scatter(x, 1, torch.tensor([[2, 0]]), 0.0), r(1, 4))
fn("scatter_add", lambda x, y: torch.scatter_add(x, 1, torch.tensor([[2, 0, 2]]), y), r(1, 4), r(1, 3))
fn("scatter_reduce amax", lambda x, y: torch.scatter_reduce(
    x, 1, torch.tensor([[2, 0, 2]]), y, "amax"), r(1, 4), r(1, 3), equal=False, why="a maximum hides edges")  # fmt: skip
fn("scatter_reduce mean alone", lambda x, y: torch.scatter_reduce(
    x, 1, torch.tensor([[2, 0, 2]]), y, "mean", include_self=False), r(1, 4), r(1, 3))  # fmt: skip
fn("constant pad", lambda x: F.pad(x, (1, 2, 0, 1)), r(1, 1, 2, 3))
fn("constant pad with a number", lambda x: F.pad(x, (1, 2), value=1.5), r(1, 3))
fn("crop by negative pad", lambda x: F.pad(x, (-1, 1)), r(1, 4))
for dims, shape in ((1, (4,)), (2, (3, 4)), (3, (3, 3, 3))):
    margins = (1, 2) + (1, 0) * (dims - 1)
    for mode in ("reflect", "replicate", "circular"):
        fn(f"{mode} pad {dims}d", lambda x, m=margins, mode=mode: F.pad(x, m, mode=mode), r(1, 2, *shape))
fn("diag_embed", lambda x, y: torch.diag_embed(x) @ y, r(1, 3), r(1, 3, 2))
fn("masked_select", lambda x: x.masked_select(torch.tensor([True, False, True])), r(1, 3))
fn("masked_scatter", lambda x, y: x.masked_scatter(torch.tensor([[True, False, True]]), y), r(1, 3), r(1, 2))
case("nearest upsampling", lambda: nn.Upsample(scale_factor=2), r(1, 1, 2, 3))
fn(
    "nearest upsampling 1d 3d",
    lambda x, y: (F.interpolate(x, 5), F.interpolate(y, (3, 2, 2))),
    r(1, 2, 3),
    r(1, 1, 2, 2, 2),
)
for dims, shape, size in ((1, (3,), (5,)), (2, (2, 3), (5, 4)), (3, (2, 2, 2), (3, 3, 2))):
    fn(
        f"nearest-exact upsampling {dims}d",
        lambda x, s=size: F.interpolate(x, s, mode="nearest-exact"),
        r(1, 1, *shape),
    )
case("nearest upsampling and convolution", lambda: nn.Sequential(
    nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3, padding=1)), r(1, 1, 3, 3))  # fmt: skip
fn("linear upsampling", lambda x: F.interpolate(x, 5, mode="linear"), r(1, 2, 3))
fn("bilinear upsampling", lambda x: F.interpolate(x, (5, 3), mode="bilinear"), r(1, 1, 3, 2))
fn("bilinear with corners", lambda x: F.interpolate(x, (5, 3), mode="bilinear", align_corners=True), r(1, 1, 3, 2))
fn("bilinear downsampling", lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"), r(1, 1, 6, 6))
fn("bilinear antialias", lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True), r(1, 1, 6, 6))
fn("bicubic upsampling", lambda x: F.interpolate(x, (5, 5), mode="bicubic"), r(1, 1, 4, 4))
fn("bicubic antialias", lambda x: F.interpolate(x, (3, 3), mode="bicubic", antialias=True), r(1, 1, 6, 6))
fn("trilinear upsampling", lambda x: F.interpolate(x, (3, 3, 4), mode="trilinear"), r(1, 1, 2, 2, 2))
case("unfold", lambda: nn.Unfold(2, padding=1, stride=2), r(1, 2, 4, 4))
case("unfold dilation", lambda: nn.Unfold(2, dilation=2), r(1, 1, 4, 4))
case("fold", lambda: nn.Fold((4, 4), 2, stride=1), r(1, 8, 9))
case("fold padding", lambda: nn.Fold((4, 4), 3, stride=2, padding=1), r(1, 9, 4))
fn("casts and copies", lambda x: x.double().clone().contiguous().float(), r(1, 3))
fn("in-place", lambda x: x.clone().mul_(2).add_(x.roll(1, 1)).relu_(), r(1, 3))


def _writes(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(1, 4)
    y[:, :2] = x[:, 1:3]
    y[:, 2:] += x[:, :2] * 2
    y[:, 3].fill_(1.0)
    return y


def _conjugates(x: torch.Tensor) -> torch.Tensor:
    z = torch.view_as_complex(x) * 1.0
    conjugate = z.conj()
    z.mul_(2)
    return torch.view_as_real(conjugate**2)


fn("writes into a slice", _writes, r(1, 3))
fn("zeros_like and friends", lambda x: x + torch.zeros_like(x) + torch.full_like(x, 2.0) * torch.ones_like(x), r(1, 3))
fn("new tensors", lambda x: torch.cat([x, x.new_zeros(1, 2), x.new_ones(1, 1)], 1).roll(1, 1), r(1, 3))
fn("complex", lambda x: torch.view_as_real(torch.view_as_complex(x) * torch.complex(torch.tensor(0.3), torch.tensor(0.5))),
   r(1, 3, 2))  # fmt: skip
fn("polar rotation", lambda x: torch.view_as_real(torch.view_as_complex(x) * torch.polar(
    torch.ones(3), torch.tensor([0.1, 0.5, 0.9]))), r(1, 3, 2))  # fmt: skip
fn("real and imaginary", lambda x: torch.complex(x, x.roll(1, 1)).real + torch.complex(x, x * 2).imag, r(1, 3),
   equal=False, why="a complex number is one unit")  # fmt: skip
fn("complex from parts", lambda x, y: torch.view_as_real(torch.complex(x, y) ** 2), r(1, 3), r(1, 3, seed=1))
fn("complex from one part", lambda x: torch.view_as_real(torch.complex(x, torch.ones(1, 3)) ** 2), r(1, 3))
fn("complex from polar", lambda x, y: torch.view_as_real(torch.polar(x, y)), r(1, 3), r(1, 3, seed=1))
fn("conjugates", lambda x: torch.view_as_real(torch.view_as_complex(x).conj().resolve_conj() ** 2), r(1, 3, 2))
fn("conjugate in a product", lambda x: (lambda z: torch.view_as_real(z * z.roll(1, 1).conj()))(torch.view_as_complex(x)),
   r(1, 3, 2))  # fmt: skip
fn("conj_physical", lambda x: torch.view_as_real(torch.conj_physical(torch.view_as_complex(x)) ** 2), r(1, 3, 2))
fn("conjugate view of what is written later", _conjugates, r(1, 3, 2))
fn(
    "_conj_physical op",
    lambda x: torch.view_as_real(aten._conj_physical.default(torch.view_as_complex(x)) ** 2),
    r(1, 3, 2),
)
fn("imaginary part of a conjugate", lambda x: (torch.view_as_complex(x) ** 2).conj().imag, r(1, 3, 2))
fn("rfft and back", lambda x: torch.fft.irfft(torch.fft.rfft(x)[..., :2], n=4), r(1, 4))
fn("rfft", lambda x: torch.view_as_real(torch.fft.rfft(x)) ** 2, r(1, 2, 5), equal=False, why="imaginary parts of 0")
fn("fft2", lambda x: torch.fft.fft2(x).real, r(1, 3, 2), equal=False, why="a complex number is one unit")
fn("fft over length 1", lambda x: torch.fft.fft(x).real, r(3, 1))

fn("index_put impl", lambda x, y: aten._index_put_impl.default(x, [None, torch.tensor([2, 0])], y), r(1, 4), r(1, 2))
fn("_unsafe_index op", lambda x: aten._unsafe_index.Tensor(x, [None, torch.tensor([2, 0])]), r(1, 4))
fn(
    "_unsafe_index_put op",
    lambda x, y: aten._unsafe_index_put.default(x, [None, torch.tensor([2, 0])], y),
    r(1, 4),
    r(1, 2),
)
fn("alias_copy op", lambda x: x * aten.alias_copy.default(x).roll(1, 1), r(1, 4))
fn("view_copy op", lambda x: aten.view_copy.default(x, [2, 2]), r(1, 4))
fn("_reshape_alias op", lambda x: aten._reshape_alias.default(x, [2, 2], [2, 1]), r(1, 4))
fn("_neg_view op", lambda x: aten._neg_view.default(x) * 2, r(1, 4))
fn("unsafe_split op", lambda x: aten.unsafe_split.Tensor(x, 2, 1)[0], r(1, 4))
fn("block_diag", lambda x, y: torch.block_diag(x, y), r(2, 2), r(1, 2))
fn("max_unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), r(1, 1, 4, 4), equal=False,
   why="where a maximum lies is control")  # fmt: skip
fn("max_unpool 3d", lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), r(1, 1, 2, 4, 4), equal=False,
   why="where a maximum lies is control")  # fmt: skip
fn("random tensors", lambda x: x + torch.rand_like(x) * torch.randn_like(x) + torch.randint_like(x, 5), r(1, 3))
fn("random writes", lambda x: x + x.new_empty(1, 3).uniform_() + x.clone().normal_() + x.clone().uniform_() + x.new_empty_strided(
    (1, 3), (3, 1)).bernoulli_(0.5), r(1, 3))  # fmt: skip
fn("bernoulli of probabilities", lambda x: x.sigmoid().bernoulli() * x, r(1, 3))
fn(
    "zeroed and filled",
    lambda x: torch.cat([x.clone().zero_(), x.clone().fill_(2.0), x.new_full((1, 2), 3.0), x], 1),
    r(1, 3),
)
fn("grid_sample fixed", lambda x: F.grid_sample(x, GRID, align_corners=False), r(1, 2, 3, 3))
fn("grid_sample by the data", lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False), r(1, 2, 3, 3), r(1, 2, 2, 2),
   equal=False, why="which pixels a point reads hangs on the data")  # fmt: skip
fn("grid_sample of a stored image", lambda g, w: F.grid_sample(w, g.tanh() * 0.5, align_corners=False), r(1, 2, 2, 2),
   weights={"w": r(1, 2, 3, 3)})  # fmt: skip
fn("grid_sample 3d", lambda x: F.grid_sample(x, GRID3, align_corners=True), r(1, 1, 2, 2, 3))
fn("affine grid", lambda t: F.affine_grid(t, [1, 1, 3, 2], align_corners=False), r(1, 2, 3))
fn("affine grid 3d", lambda t: F.affine_grid(t, [1, 1, 2, 3, 2], align_corners=False), r(1, 3, 4))
fn("cdist", lambda x, y: torch.cdist(x, y), r(1, 2, 3), r(1, 4, 3))
fn("cdist to stored points", lambda x, w: torch.cdist(x, w), r(2, 3), weights={"w": r(4, 3)})
fn("_euclidean_dist op", lambda x, y: aten._euclidean_dist.default(x, y), r(2, 3), r(4, 3))
SQUARE = torch.eye(3) * 3 + r(1, 3, 3) * 0.3
fn("inverse", lambda x: torch.linalg.inv(x), SQUARE)
fn("determinant", lambda x: torch.linalg.det(x), SQUARE)
fn("log-determinant", lambda x: torch.linalg.slogdet(x)[1], SQUARE)
fn("solve", lambda x, y: torch.linalg.solve(x, y), SQUARE, r(1, 3, 2), equal=False, why="a column reads its own column")
fn("solve triangular", lambda x, y: torch.linalg.solve_triangular(x, y, upper=False), SQUARE, r(1, 3, 2), **CANCELS)
fn("cholesky", lambda x: torch.linalg.cholesky(x @ x.mT), SQUARE, **CANCELS)
fn(
    "cholesky ops",
    lambda x: (torch.cholesky_inverse(torch.linalg.cholesky(x @ x.mT)), torch.cholesky_solve(x, x)),
    SQUARE,
    **CANCELS,
)
fn("qr", lambda x: torch.linalg.qr(x), SQUARE, **CANCELS)
fn("singular values", lambda x: torch.linalg.svdvals(x), SQUARE)
fn("eigenvalues", lambda x: torch.linalg.eigvalsh(x + x.mT), SQUARE)
fn("matrix exponential", lambda x: torch.linalg.matrix_exp(x), SQUARE)
fn("pseudo-inverse", lambda x: torch.linalg.pinv(x), SQUARE)
fn("floor_divide", lambda x: torch.floor_divide(x, 2) + x, r(1, 3))
fn("norm op", lambda x: aten.norm.ScalarOpt_dim(x, 2, [1]), r(1, 3, 2))
for name in ("mse_loss", "smooth_l1_loss", "huber_loss"):
    for reduction in ("mean", "sum", "none"):
        fn(f"{name} {reduction}", lambda x, y, name=name, reduction=reduction: getattr(F, name)(x, y, reduction=reduction),
           r(1, 3), r(1, 3, seed=1))  # fmt: skip
fn("soft margin loss", lambda x: F.soft_margin_loss(x, torch.tensor([[1.0, -1.0, 1.0]])), r(1, 3))
fn("binary cross-entropy", lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), r(1, 3), r(1, 3, seed=1))
fn("binary cross-entropy of logits", lambda x: F.binary_cross_entropy_with_logits(x, torch.ones(1, 3)), r(1, 3))
fn("cross-entropy", lambda x: F.cross_entropy(x, torch.tensor([2, -100]), reduction="sum"), r(2, 4),
   equal=False, why="a loss reads the log-probabilities, of which a softmax is one to one")  # fmt: skip
fn(
    "nll loss",
    lambda x: (F.nll_loss(x, torch.tensor([2, -100])), F.nll_loss(x, torch.tensor([1, 0]), reduction="none")),
    r(2, 4),
)
fn("nll loss 2d", lambda x: F.nll_loss(x, torch.tensor([[[2, 0], [1, 1]]])), r(1, 3, 2, 2))

# -- matrix functions, distances and windows that few models use --------------------------------------

fn("cross product", lambda x, y: torch.linalg.cross(x, y), r(2, 3), r(2, 3, seed=1))
fn("cross product along another axis", lambda x, y: torch.linalg.cross(x, y, dim=1), r(1, 3, 2), r(4, 3, 2))
fn("cross product with a constant", lambda x: torch.cross(x, torch.tensor([[0.0, 2.0, 3.0]]), dim=1), r(1, 3))
fn("pairwise distances", lambda x: F.pdist(x), r(4, 3))
fn("pairwise distances of another kind", lambda x: F.pdist(x.roll(1, 1), p=3), r(3, 2))
fn("convolution over time", lambda x, w, c: torch.conv_tbc(x, w, c, 1), r(5, 1, 2),
   weights={"w": r(3, 2, 4), "bias": r(4)})  # fmt: skip
fn("least squares", lambda x, y: torch.linalg.lstsq(x, y)[0], SQUARE, r(1, 3, 2), **CANCELS)
fn("factors of a symmetric matrix", lambda x: torch.linalg.ldl_factor(x + x.mT)[0], SQUARE, replay=False)
fn("solution by factors of a symmetric matrix", lambda x, y: torch.linalg.ldl_solve(*torch.linalg.ldl_factor(x + x.mT), y),
   SQUARE, r(1, 3, 2), replay=False)  # fmt: skip
fn("triangular factors", lambda x: torch.linalg.lu(x), SQUARE, **CANCELS)
fn("solution by triangular factors", lambda x, y: torch.linalg.lu_solve(*torch.linalg.lu_factor(x), y), SQUARE,
   r(1, 3, 2), **CANCELS)  # fmt: skip
fn("triangles of factors", lambda x: torch.lu_unpack(x * 1.0, torch.tensor([[1, 2, 3]], dtype=torch.int32))[1:], SQUARE)
fn("triangular_solve op", lambda x, y: aten.triangular_solve.default(y, x)[0], SQUARE, r(1, 3, 2), **CANCELS)
fn("eigenvalues of any matrix", lambda x: torch.linalg.eigvals(x).abs(), SQUARE)
fn("eigenvectors of any matrix", lambda x: torch.linalg.eig(x)[0].abs(), SQUARE)
fn("eigenvalues op", lambda x: aten._linalg_eigvals.default(x), SQUARE, replay=False)
fn("householder product", lambda x, t: torch.linalg.householder_product(x, t), r(1, 3, 2), r(1, 2), **CANCELS)
fn("reflections of a factorisation", lambda x: torch.geqrf(x)[0], SQUARE, replay=False)
fn("product with reflections", lambda x, t, y: torch.ormqr(x, t, y), r(3, 2), r(2), r(3, 3), **CANCELS)
for how in ("prod", "mean", "amax", "amin"):
    fn(f"index_reduce {how}",
       lambda x, y, how=how: torch.index_reduce(x, 0, torch.tensor([2, 0, 2]), y, how), r(3, 2), r(3, 2, seed=1),
       equal=how in ("prod", "mean"), why="" if how in ("prod", "mean") else "one of two is the greater")  # fmt: skip
fn("index_reduce without what was there",
   lambda x, y: torch.index_reduce(x, 1, torch.tensor([2, 2]), y, "mean", include_self=False), r(1, 3),
   r(1, 2))  # fmt: skip
FRACTION = torch.tensor([[[0.3, 0.8], [0.95, 0.1]]])
HIDES = {"equal": False, "why": "a maximum hides the others: a test of its own has many draws"}
fn("fractional pooling at stored places", lambda x: aten.fractional_max_pool2d.default(x, [2, 3], [3, 2], FRACTION)[0],
   r(1, 2, 7, 6), **HIDES)  # fmt: skip
fn("fractional pooling in three dimensions", lambda x: aten.fractional_max_pool3d.default(
    x, [2, 1, 2], [2, 3, 2], torch.tensor([[[0.3, 0.8, 0.6]]]))[0], r(1, 1, 4, 5, 5), **HIDES)  # fmt: skip
fn("fractional pooling to one", lambda x: aten.fractional_max_pool2d.default(x, [2, 2], [1, 2], FRACTION)[0],
   r(1, 2, 4, 4), **HIDES)  # fmt: skip
case("fractional pooling by chance", lambda: nn.FractionalMaxPool2d(2, output_size=3), r(1, 2, 7, 7), equal=False,
     why="where the windows lie is drawn")  # fmt: skip

# -- complex weights ----------------------------------------------------------------------------------

COMPLEX = torch.complex(r(2, 3), r(2, 3, seed=1))
case("complex linear", lambda: nn.Linear(3, 4, dtype=torch.complex64), COMPLEX)
fn("complex einsum", lambda x, w: torch.einsum("bi,kio->bko", torch.fft.fft(x), torch.view_as_complex(w)).abs(), r(1, 3),
   weights={"w": r(2, 3, 2, 2)})  # fmt: skip

# -- constants inside of products of activations ------------------------------------------------------

ONES = torch.ones(1, 2)
fn("a product of constants is a constant", lambda x, y: (torch.cat([ONES, x]) @ torch.cat([ONES, x]).T) * y, r(2, 2),
   r(3, 3))  # fmt: skip
fn("a product of zeros is zero", lambda x, y: (torch.cat([0 * ONES, x]) @ torch.cat([ONES, x]).T) * y, r(2, 2), r(3, 3))
fn("a product of halves", lambda x, y: (torch.cat([torch.tensor([[1.0, 0.0]]), x]) @ torch.cat(
    [torch.tensor([[0.0, 1.0]]), x]).T) * y, r(2, 2), r(3, 3))  # fmt: skip


def _by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    scores = q @ k.mT / 2
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), float("-inf"))
    return scores.softmax(-1) @ v


ROW = torch.ones(1, 1, 2)
for way, attend in (
    ("fused", lambda q, k, v, causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal)), ("by hand", _by_hand),
):  # fmt: skip
    for causal in (False, True):
        fn(f"attention {way} with a constant row{', causal' if causal else ''}",
           lambda x, y, attend=attend, causal=causal: attend(torch.cat([ROW, x], 1), torch.cat([ROW, x], 1), y, causal),
           r(1, 2, 2), r(1, 3, 2))  # fmt: skip
        fn(f"attention {way} with a constant token{', causal' if causal else ''}",
           lambda x, y, attend=attend, causal=causal: attend(*[torch.cat([ROW, x], 1)] * 3, causal) * y,
           r(1, 2, 2), r(1, 3, 2))  # fmt: skip

# -- frames, segments, sparse matrices, and operators that take functions ------------------------------

HANN = torch.hann_window(8)
fn("short-time Fourier transform", lambda x: torch.stft(x, 8, 4, window=HANN, return_complex=True).abs(), r(1, 16),
   **CANCELS)  # fmt: skip
fn("short-time Fourier transform and back", lambda x: torch.istft(torch.stft(
    x, 8, 4, window=HANN, return_complex=True) * 0.5, 8, 4, window=HANN), r(1, 16), **CANCELS)  # fmt: skip
fn("unfold_backward op", lambda x: aten.unfold_backward.default(x, [2, 7], 1, 3, 2), r(2, 3, 3))
for how in ("sum", "mean", "prod", "max", "min"):
    fn(f"segment_reduce {how}", lambda x, how=how: torch.segment_reduce(x, how, lengths=torch.tensor([2, 3, 1])), r(6, 2),
       equal=how not in ("max", "min"), why="a maximum hides edges" if how in ("max", "min") else "")  # fmt: skip
fn("segment_reduce by offsets", lambda x: torch.segment_reduce(x, "sum", offsets=torch.tensor([0, 1, 4])), r(4, 2))
NEIGHBOURS = torch.tensor([[0.0, 0.5, 0.0], [0.2, 0.0, 0.7], [0.0, 0.3, 0.1]])
fn("sparse matrix times dense", lambda x: torch.sparse.mm(NEIGHBOURS.to_sparse(), x), r(3, 2))
fn("sparse matrix of rows times dense", lambda x: NEIGHBOURS.to_sparse_csr() @ x, r(3, 2))


def _cumulated(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from torch._higher_order_ops.associative_scan import associative_scan

    def step(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return a[0] * b[0], a[1] * b[0] + b[1]

    return associative_scan(step, (x, y), dim=1, combine_mode="generic")[1]


def _carried(x: torch.Tensor) -> torch.Tensor:
    from torch._higher_order_ops.scan import scan

    return scan(lambda c, v: (c.tanh() + v, c.sin() + v.cos()), torch.zeros(2), x, dim=0)[1]


fn("associative scan", _cumulated, r(1, 5, 2), r(1, 5, 2, seed=1))
fn("scan", _carried, r(4, 2))
