"""What an update may write: scales and shifts, a distribution of heads, a learned metric on gradients."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from mlcore import Examples, Task, classification, meta_train, seeded
from mlcore.learners import MAML, FiLM, MetaCurvature, MetaSGD, ProtoNet, Tadam, Versa
from mlcore.nets import BatchNorm, conv4, mlp
from mlcore.objective import cross_entropy, mse
from mlcore.task import Tasks

EYE = torch.eye(3, dtype=torch.float64)


def _net() -> Any:
    torch.manual_seed(0)
    net = conv4(1, filters=6, image_size=16).double().eval()
    for norm in (module for module in net.modules() if isinstance(module, BatchNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        nn.init.uniform_(norm.running_var, 0.1, 0.5)
    return net


def _task(tasks: int = 2) -> Task:
    x = torch.rand(tasks, 12, 1, 16, 16, dtype=torch.float64, generator=seeded(1))
    y = EYE[torch.arange(12) % 3].expand(tasks, -1, -1)
    return Task(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


def _film(kind: Any = FiLM, **settings: Any) -> Any:
    torch.manual_seed(1)
    return kind(_net(), block="block3", features=6, width=5, **settings).double()


@pytest.mark.parametrize("kind", [FiLM, Tadam])
def test_before_training_nothing_is_written(kind):
    prototypes = ProtoNet(_net(), distance="scaled").double()
    for training in (True, False):
        found = _film(kind).train(training)(_task())
        torch.testing.assert_close(found, prototypes.eval()(_task()))


def test_film_scales_and_shifts_what_the_normalisations_give():
    """eq-write-film, against hooks behind the layers of the whole network."""
    learner, net, task = _film(), _net(), _task(1)
    nn.init.normal_(learner.writer.weight, std=0.3)
    nn.init.normal_(learner.writer.bias, std=0.3)
    written = learner.writer(learner.encoder(net(task.support.x[0])).mean(0)).view(2, 2, 6)

    def hook(gamma, beta):
        return lambda module, inputs, output: output * (1 + gamma[:, None, None]) + beta[:, None, None]

    for i, block in enumerate((net.block3, net.block4)):
        block[1].register_forward_hook(hook(*written[:, i]))
    support, query = net(task.support.x[0]), net(task.query.x[0])
    means = torch.stack([support[k::3].mean(0) for k in range(3)])
    expected = -10 * (query[:, None] - means).square().mean(-1)
    torch.testing.assert_close(learner(task)[0], expected)


def test_tadam_reads_the_mean_prototype_through_its_multipliers():
    learner, net, task = _film(Tadam), _net(), _task(1)
    nn.init.normal_(learner.multipliers)
    y = EYE[torch.tensor([0, 0, 0, 0, 1, 2])]  # so that the mean prototype is not the mean
    support = Examples(task.support.x[0], y)
    z = net(support.x)
    code = learner.encoder((z[:4].mean(0) + z[4] + z[5]) / 3)
    gammas, betas = learner.writer(code).view(2, 2, 6)
    state = learner.update(learner.begin(), Examples(learner.embed(support.x), y))
    for i, name in enumerate(("block3.1", "block4.1")):
        norm, (most, least) = net.get_submodule(name), learner.multipliers[i]
        torch.testing.assert_close(state.norms[f"{name}.weight"], norm.weight * (1 + most * gammas[i]))
        shift = norm.bias * (1 + most * gammas[i]) + least * betas[i]
        torch.testing.assert_close(state.norms[f"{name}.bias"], shift)


def test_the_penalty_is_added_to_the_loss():
    learner, task = _film(Tadam, penalty=0.5), _task()
    nn.init.normal_(learner.multipliers)
    judged = learner.judged(task, classification)
    plain = torch.stack([cross_entropy(o, y) for o, y in zip(judged.outputs, task.query.y, strict=True)])
    torch.testing.assert_close(judged.losses - plain, 0.5 * learner.multipliers.square().sum().expand(2))


def test_the_network_under_film_is_frozen():
    learner = _film().train()
    before = {name: value.clone() for name, value in learner.net.state_dict().items()}
    learner.meta_backward(_task(), classification)
    assert learner.writer.weight.grad.any() and all(p.grad is None for p in learner.net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in learner.net.state_dict().items())


class Flagged(Tasks):
    """Two of four numbers tell the classes apart, two are loud; a fifth, the task's own, says which."""

    objective = classification

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        which = torch.randint(2, (n_tasks, 1, 1), generator=generator)
        centres = torch.randn(n_tasks, 1, 3, 2, generator=generator)
        quiet = (centres + 0.3 * torch.randn(n_tasks, 5, 3, 2, generator=generator)).flatten(1, 2)
        loud = 3 * torch.randn(n_tasks, 15, 2, generator=generator)
        flag = (2.0 * which - 1).expand(n_tasks, 15, 1)
        x = torch.where(which.bool(), torch.cat([quiet, loud], -1), torch.cat([loud, quiet], -1))
        y = torch.eye(3).repeat(5, 1).expand(n_tasks, -1, -1)
        x = torch.cat([x, flag], -1)
        return Task(Examples(x[:, :3], y[:, :3]), Examples(x[:, 3:], y[:, 3:]))


@pytest.mark.parametrize("kind", [FiLM, Tadam])
def test_film_learns_which_channels_a_task_needs(kind):
    """Where class means cannot know; chance is one in three."""
    tasks, exam = Flagged(), Flagged().sample(300, seeded(9))
    torch.manual_seed(0)
    learner = kind(nn.Sequential(BatchNorm(5)), block="0", features=5, width=16)

    def right() -> float:
        return learner.eval().judged(exam, classification).scores["accuracy"].mean().item()

    before = right()
    meta_train(learner, tasks, iterations=200, meta_batch=16, outer_lr=1e-2, seed=0, progress=False)
    assert before < 0.45 < 0.8 < right()


@pytest.mark.parametrize(
    ("net", "settings", "message"),
    [
        (mlp(2, 3), {"block": "7"}, "the network has no block '7'; it has 0"),
        (mlp(2, 3), {"block": "0"}, "from '0' on there is no batch normalisation to modulate"),
        (nn.Identity(), {"block": "0"}, "must be an nn.Sequential of blocks, not Identity"),
    ],
)
def test_what_film_cannot_modulate_is_refused(net, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        FiLM(net, features=3, **settings)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="penalty=-1 must not be negative"):
        _film(Tadam, penalty=-1)
    with pytest.raises(ValueError, match="samples=0 must be at least 1"):
        Versa(nn.Identity(), features=2, samples=0)


def test_versa_answers_as_a_mean_over_heads():
    """eq-write-versa: probabilities by whole heads drawn, against logits drawn as in eq-write-local."""
    torch.manual_seed(0)
    learner = Versa(nn.Identity(), features=4, width=8, samples=20_000).double()
    z = 4 * torch.randn(8, 4, dtype=torch.float64, generator=seeded(2))
    state = learner.update((), Examples(z[:6], EYE[torch.arange(6) % 3]))
    draws = torch.randn(20_000, *state.mean.shape, dtype=torch.float64, generator=seeded(3))
    heads = state.mean + state.variance.sqrt() * draws
    logits = torch.einsum("ld,skd->slk", torch.cat([z[6:], torch.ones(2, 1, dtype=torch.float64)], 1), heads)
    expected = logits.softmax(-1).mean(0)
    found = learner.predict(state, z[6:]).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    mean_head = (torch.cat([z[6:], torch.ones(2, 1, dtype=torch.float64)], 1) @ state.mean.mT).softmax(-1)
    assert (mean_head - expected).abs().max() > 0.02  # that test can fail


def test_a_certain_versa_is_a_linear_head():
    learner: Any = Versa(nn.Identity(), features=4, width=8).double()
    nn.init.zeros_(learner.log_variance[-1].weight)
    nn.init.constant_(learner.log_variance[-1].bias, -80.0)
    z = torch.randn(8, 4, dtype=torch.float64, generator=seeded(2))
    state = learner.update((), Examples(z[:6], EYE[torch.arange(6) % 3]))
    logits = z[6:] @ state.mean[:, :4].mT + state.mean[:, 4]
    torch.testing.assert_close(learner.predict(state, z[6:]), logits.log_softmax(-1))


def test_versa_learns():
    """Blobs of three classes; chance is one in three."""
    torch.manual_seed(0)
    tasks, exam = Flagged(), Flagged().sample(200, seeded(9))
    learner = Versa(mlp(5, 32, 8), features=8, width=16)
    before = learner.eval().judged(exam, classification).scores["accuracy"].mean().item()
    meta_train(learner, tasks, iterations=300, meta_batch=16, outer_lr=3e-3, seed=0, progress=False)
    assert before < 0.5 < 0.55 < learner.eval().judged(exam, classification).scores["accuracy"].mean().item()


def _convolution(kind, **settings):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 3, (2, 3)), nn.Flatten(), nn.Linear(12, 3)).double()
    return kind(net, inner_lr=0.3, **settings).double()


def _images() -> Task:
    x = torch.randn(2, 6, 2, 3, 4, dtype=torch.float64, generator=seeded(1))
    y = EYE[torch.arange(6) % 3].expand(2, -1, -1)
    return Task(Examples(x, y), Examples(x.flip(1), y.flip(1)))


def test_untrained_curvature_is_maml():
    torch.testing.assert_close(_convolution(MetaCurvature)(_images()), _convolution(MAML)(_images()))


def test_diagonal_curvature_is_meta_sgd_with_rates_that_are_outer_products():
    """Predictions, and the meta-gradient of the initialisation."""
    curved, rated = _convolution(MetaCurvature, inner_steps=2), _convolution(MetaSGD, inner_steps=2)
    for factors, alpha in zip(curved.factors, rated.alpha, strict=True):
        sides = [torch.rand(len(f), dtype=torch.float64) + 0.5 for f in factors]
        product = sides[0]
        for side in sides[1:]:
            product = product[..., None] * side
        with torch.no_grad():
            alpha.copy_(0.3 * product.view_as(alpha))
            for factor, side in zip(factors, sides, strict=True):
                factor.copy_(torch.diag(side))
    task = _images()
    torch.testing.assert_close(curved(task), rated(task))
    for learner in (curved, rated):
        learner.meta_backward(task, classification)
    for ours, theirs in zip(curved.net.parameters(), rated.net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_curvature_is_a_kronecker_product():
    """eq-write-curvature, with the product written out."""
    learner = _convolution(MetaCurvature)
    for factor in learner.factors.parameters():
        nn.init.normal_(factor)
    gradient = {name: torch.randn_like(p) for name, p in learner.start().items()}
    curved = learner.curved(gradient)
    for (name, g), factors in zip(gradient.items(), learner.factors, strict=True):
        whole = torch.ones(1, 1, dtype=torch.float64)
        for factor in factors:
            whole = torch.kron(whole, factor)
        torch.testing.assert_close(curved[name].flatten(), whole @ g.flatten())


def test_on_quadratics_the_best_curvature_is_the_inverse_hessian():
    """eq-write-inverse: one step from anywhere ends at any task's optimum."""
    torch.manual_seed(0)
    x = torch.randn(40, 3, dtype=torch.float64) @ torch.diag(torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64))
    hessian = 2 * x.T @ x / len(x)
    learner = MetaCurvature(nn.Linear(3, 1, bias=False), inner_lr=1.0, loss_fn=mse).double()
    learner.net.requires_grad_(True)
    targets = torch.randn(8, 3, 1, dtype=torch.float64, generator=seeded(4))
    examples = Examples(x.expand(8, -1, -1), x @ targets)
    outer = torch.optim.LBFGS(learner.factors.parameters(), max_iter=300, tolerance_grad=1e-14, tolerance_change=1e-18)

    def closure():
        outer.zero_grad()
        adapted = torch.vmap(learner.update, in_dims=(None, 0))(learner.begin(), examples)
        outputs = torch.vmap(lambda p, x: functional_call(learner.net, p, (x,)))(adapted, examples.x)
        loss = F.mse_loss(outputs, examples.y)
        loss.backward(inputs=list(learner.factors.parameters()))
        return loss

    outer.step(closure)
    (output, inputs), *_ = learner.factors
    torch.testing.assert_close(output * inputs, torch.linalg.inv(hessian), rtol=1e-4, atol=1e-4)
