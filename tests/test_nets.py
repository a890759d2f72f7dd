"""Batch normalisation, whose statistics it takes, its conversion, and the networks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from mlcore import MAML, Examples, Task, as_torch, classification, conv4, mlp
from mlcore.nets import BatchNorm, UnitLength, batch_norms, statistics_from, written_out
from mlcore.nets.norms import source_now

SHAPES = [(7, 3), (5, 3, 6), (4, 3, 5, 6)]


def _torch_norm(shape: tuple[int, ...]) -> nn.Module:
    """torch's batch normalisation in float64 with nothing left at its default."""
    torch.manual_seed(0)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1], eps=1e-3, momentum=0.3).double()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_is_torchs(shape, training):
    theirs = _torch_norm(shape).train(training)
    ours = written_out(theirs)
    results = []
    for norm in (theirs, ours):
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = norm(x)
        y.pow(3).sum().backward()
        results.append((y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)
    moved = not torch.equal(ours.running_mean, _torch_norm(shape).running_mean)
    assert moved == training


@pytest.mark.parametrize("source", ["batch", "running", 1, 3])
def test_source_names_the_statistics(source):
    norm = written_out(_torch_norm((6, 3, 4, 4)))
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with statistics_from(source) as seen:
        y = norm(x)
    if source == "running":
        mean, var = norm.running_mean, norm.running_var
    else:
        rows = x if source == "batch" else x[:source]
        mean, var = rows.mean((0, 2, 3)), rows.var((0, 2, 3), correction=0)
    shape = (1, 3, 1, 1)
    expected = (x - mean.view(shape)) / (var + 1e-3).sqrt().view(shape)
    expected = expected * norm.weight.view(shape) + norm.bias.view(shape)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} moved although the source was named"
    if source == "running":
        assert not seen
    else:
        count = rows.numel() // 3
        torch.testing.assert_close(seen[norm], (mean.detach(), var.detach() * count / (count - 1)))
    assert source_now() is None


def test_blocks_nest_and_end_after_an_error():
    with pytest.raises(ZeroDivisionError), statistics_from(3):
        with statistics_from("running"):
            assert source_now() == "running"
        assert source_now() == 3
        raise ZeroDivisionError
    assert source_now() is None


def test_a_block_tells_what_each_layer_saw_last():
    net = nn.Sequential(BatchNorm(3), nn.ReLU(), BatchNorm(3)).double()
    first, second = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with statistics_from("batch") as seen:
        net(first)
        net(second)
    assert list(seen) == batch_norms(net)
    torch.testing.assert_close(seen[net[0]], (second.mean(0), second.var(0)))
    with statistics_from("batch") as seen_by_none:
        pass
    assert not seen_by_none


def test_conversion_leaves_the_original_and_keeps_outputs():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), _torch_norm((2, 3, 4, 4)).float(), nn.Sequential(nn.BatchNorm2d(3)))
    net[1].weight.requires_grad_(False)
    net[2].eval()
    ours = written_out(net)
    assert [type(module) for module in (net[1], net[2][0])] == [nn.BatchNorm2d] * 2
    assert len(batch_norms(ours)) == 2
    assert ours[0].weight is not net[0].weight
    assert {name: p.requires_grad for name, p in ours.named_parameters()} == {
        name: p.requires_grad for name, p in net.named_parameters()
    }
    x = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(ours(x), net(x))


def test_a_layer_used_in_two_places_stays_one():
    norm = nn.BatchNorm1d(3)
    net = written_out(nn.Sequential(norm, nn.Linear(3, 3), norm, nn.Sequential(norm)))
    assert not any(isinstance(module, nn.BatchNorm1d) for module in net.modules())
    assert net[0] is net[2] is net[3][0]
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_as_torch_is_the_way_back():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), _torch_norm((2, 3, 4, 4)), nn.ReLU(), nn.Sequential(nn.BatchNorm2d(3)))
    net, x = net.double().eval(), torch.randn(4, 1, 6, 6, dtype=torch.float64)
    ours = written_out(net)
    back = as_torch(ours)
    assert len(batch_norms(ours)) == 2 and not batch_norms(back)
    assert isinstance(back[1], nn.BatchNorm2d) and isinstance(back[3][0], nn.BatchNorm2d)
    assert torch.equal(back(x), net(x)) and torch.equal(ours(x), net(x))
    back.train()(x)
    assert not torch.equal(back[1].running_mean, ours[1].running_mean)  # a copy, of layers that keep averages
    assert as_torch(written_out(nn.BatchNorm1d(3)))(torch.randn(5, 3)).shape == (5, 3)


def test_a_state_dict_of_torchs_layers_fits():
    theirs = nn.Sequential(nn.Conv2d(1, 3, 3), _torch_norm((2, 3, 4, 4)).float())
    state = theirs.state_dict()
    ours = written_out(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, eps=1e-3)))
    ours.load_state_dict(state)
    x = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert "1.num_batches_tracked" in state  # the caller's is left whole
    with pytest.raises(RuntimeError, match="running_mean"):
        ours.load_state_dict({name: value for name, value in state.items() if "running_mean" not in name})


@pytest.mark.parametrize("option", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_unusual_batch_norms_are_refused(option):
    with pytest.raises(ValueError, match="is not supported; use affine=True"):
        written_out(nn.BatchNorm2d(4, **option))


def _meta_gradient(net: nn.Module, *, vmapped: bool) -> torch.Tensor:
    """The gradient, through one inner step, of the mean loss of four tasks, as one vector."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 6, 1, 6, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(3, (4, 6), generator=generator)
    params = dict(net.named_parameters())

    def one_task(x, y):
        def loss(params):
            return F.cross_entropy(functional_call(net, params, (x,)), y)

        step = grad(loss)(params)
        return loss({name: value - 0.5 * step[name] for name, value in params.items()})

    losses = vmap(one_task)(x, y) if vmapped else torch.stack([one_task(*task) for task in zip(x, y, strict=True)])
    return torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), list(params.values()))])


def _relative_error(norm: nn.Module) -> float:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Softplus(), nn.Flatten(), nn.Linear(64, 3)).double()
    exact = _meta_gradient(net, vmapped=False)
    return ((_meta_gradient(net, vmapped=True) - exact).norm() / exact.norm()).item()


def test_vmapped_second_derivative_of_our_batch_norm_is_the_loops():
    with statistics_from("batch"):
        assert _relative_error(BatchNorm(4)) < 1e-12
    assert _relative_error(BatchNorm(4)) < 1e-12
    assert _relative_error(nn.GroupNorm(2, 4)) < 1e-12


def test_the_trap_is_still_there():
    error = _relative_error(nn.BatchNorm2d(4, track_running_stats=False))
    assert error > 1e-6, (
        f"vmap's second derivative of nn.BatchNorm2d is right in torch {torch.__version__} (error {error:.0e}): "
        "the page about the trap should name the versions that are wrong"
    )


def test_a_learner_can_be_copied_and_saved_after_a_vmapped_pass(tmp_path):
    learner = MAML(conv4(outputs=2, filters=2, image_size=16), inner_lr=0.1, mapping="vmap")
    examples = Examples(torch.randn(3, 2, 1, 16, 16), torch.eye(2).expand(3, 2, 2))
    learner.meta_loss(Task(examples, examples), classification).backward()
    for other in (copy.deepcopy(learner), MAML(learner.net, inner_lr=0.1)):
        torch.testing.assert_close(other.net.state_dict(), learner.net.state_dict())
    torch.save(learner, tmp_path / "learner.pt")


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_conv4_parameters(downsample):
    encoder = conv4(downsample=downsample)
    norms = batch_norms(encoder)
    assert len(norms) == 4
    assert sum(map(_parameters, norms)) == 512
    assert _parameters(encoder) == 111_936  # convolutions 111,424
    assert _parameters(conv4(outputs=5).head) == 325
    assert _parameters(conv4(outputs=5, downsample="pool").head) == 325


@pytest.mark.parametrize(
    ("downsample", "image_size", "width"),
    [("stride", 28, 6), ("stride", 84, 6), ("pool", 28, 6), ("pool", 84, 6 * 25), ("pool", 16, 6), ("pool", 33, 6 * 4)],
)
def test_conv4_shapes(downsample, image_size, width):
    options = {"in_channels": 3, "filters": 6, "downsample": downsample, "image_size": image_size}
    x = torch.randn(2, 3, image_size, image_size)
    assert conv4(**options)(x).shape == (2, width)
    assert conv4(outputs=7, **options)(x).shape == (2, 7)


def test_conv4_halves_four_times():
    net, x = conv4(filters=4), torch.randn(2, 1, 28, 28)
    sides = []
    for i in range(1, 5):
        x = net.get_submodule(f"block{i}")(x)
        sides.append(x.shape[-1])
    assert sides == [14, 7, 4, 2]
    assert torch.equal(net.pool(x), x.mean((2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downsample": "max"}, "downsample must be 'stride' or 'pool', not 'max'"),
        ({"image_size": 15}, "image_size=15 is too small"),
    ],
    ids=str,
)
def test_conv4_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        conv4(**options)


def test_mlp():
    net = mlp(1, 40, 40, 1)
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert _parameters(net) == 80 + 1_640 + 41
    assert [type(layer) for layer in mlp(2, 3, 4, activation=nn.Tanh)] == [nn.Linear, nn.Tanh, nn.Linear]
    assert mlp(2, 3).__class__ is nn.Sequential and mlp(2, 3)(torch.zeros(5, 2)).shape == (5, 3)
    with pytest.raises(ValueError, match="at least an input and an output size"):
        mlp(3)


def test_the_nearest_vector_of_length_one_has_the_largest_cosine():
    x, others = torch.randn(5, 1, 3, 3), torch.randn(7, 1, 3, 3)
    cosines = F.cosine_similarity(x.flatten(1)[:, None], others.flatten(1)[None], dim=-1)
    distances = torch.cdist(UnitLength()(x), UnitLength()(others))
    torch.testing.assert_close(1 - distances.square() / 2, cosines)
