"""Batch normalisation by torch's kernels: first and second derivatives, one task or many, and no third."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

from mlcore.nets.batch_norm_kernel import batch_norm

SHAPES = [(5, 3), (4, 2, 7), (6, 3, 4, 4)]


def _inputs(shape: tuple[int, ...], *tasks: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, dtype=torch.float64, generator=generator)
    return draw(*tasks, *shape) + 1, draw(*tasks, shape[1]), draw(*tasks, shape[1])


def _output(x: Tensor, weight: Tensor, bias: Tensor, by_torch: bool = False) -> Tensor:
    return batch_norm(x, weight, bias, 1e-5, by_torch=by_torch)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by_torch", [False, True])
def test_it_is_torchs(shape, by_torch):
    x, weight, bias = _inputs(shape)
    y, mean, var = batch_norm(x, weight, bias, 1e-5, by_torch=by_torch)
    torch.testing.assert_close(y, F.batch_norm(x, None, None, weight, bias, training=True))
    over = (0, *range(2, x.dim()))
    torch.testing.assert_close((mean, var), (x.mean(over), x.var(over, correction=0)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by_torch", [False, True])
def test_two_derivatives_are_those_of_finite_differences(shape, by_torch):
    inputs, output = [part.requires_grad_() for part in _inputs(shape)], partial(_output, by_torch=by_torch)
    assert torch.autograd.gradcheck(output, inputs)
    assert torch.autograd.gradgradcheck(output, inputs)


def _second_derivatives(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    def square_of_slopes(*inputs: Tensor) -> Tensor:
        slopes = grad(lambda *inputs: (_output(*inputs) ** 3).sum(), argnums=(0, 1, 2))(*inputs)
        return sum(slope.square().sum() for slope in slopes)

    return grad(square_of_slopes, argnums=(0, 1, 2))(x, weight, bias)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dims", [(0, 0, 0), (0, None, None), (None, 0, 0), (-1, 0, None)])
def test_many_tasks_at_once_are_as_one_by_one(shape, dims):
    many, one = _inputs(shape, 3), _inputs(shape)
    tasks = [[one[i] if dims[i] is None else many[i][task] for i in range(3)] for task in range(3)]
    stacked = [one[i] if dims[i] is None else many[i].movedim(0, dims[i]) for i in range(3)]
    found = vmap(_second_derivatives, in_dims=dims)(*stacked)
    expected = [torch.stack(parts) for parts in zip(*(_second_derivatives(*task) for task in tasks), strict=True)]
    torch.testing.assert_close(found, tuple(expected), rtol=1e-9, atol=1e-9)


def test_a_constant_channel_has_no_variance():
    _, mean, var = batch_norm(torch.full((4, 1, 3, 3), 7.0), torch.ones(1), torch.zeros(1), 1e-5, by_torch=False)
    assert mean == 7 and 0 <= var < 1e-8


@pytest.mark.parametrize("engine", ["func", "autograd"])
def test_a_third_derivative_is_refused(engine):
    x, weight, bias = _inputs((4, 1))

    def moved(t: Tensor) -> Tensor:
        return (_output(x + t * x.flip(0), weight, bias) ** 3).sum()

    t = torch.tensor(0.3, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="no third derivative"):
        if engine == "func":
            grad(grad(grad(moved)))(t)
        t.requires_grad_()
        y = moved(t)
        for _ in range(3):
            (y,) = torch.autograd.grad(y, t, create_graph=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
def test_forward_mode_is_refused():
    inputs = _inputs((4, 1))
    with pytest.raises(NotImplementedError, match="jvp"):
        jvp(_output, inputs, inputs)
