"""The exact gradient of MAML on a bandit of two arms, by going through all that may happen."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Policy = Callable[[Tensor], Tensor]
"""A parameter θ [] to the chances of the arms [arms]."""


def direct(theta: Tensor) -> Tensor:
    """θ is the chance of arm 1."""
    return torch.stack([1 - theta, theta])


def logistic(theta: Tensor) -> Tensor:
    """θ is the log odds of arm 1."""
    return direct(theta.sigmoid())


class MetaGradients(NamedTuple):
    """Derivatives with respect to θ of the reward expected after one policy-gradient step."""

    exact: Tensor
    plain: Tensor  # what automatic differentiation through the step gives on average
    sampling: Tensor  # what the chance of the data contributes (Stadie et al., 2018)
    dice: Tensor  # of the objective with DiCE's factor (Foerster et al., 2018), on average


def meta_gradients(policy: Policy, theta: Tensor, rewards: Tensor, *, inner_lr: float, pulls: int = 2) -> MetaGradients:
    """Pull ``pulls`` times, step along log π · (sum of rewards), and be judged by the policy's expected reward.

    Every sequence of arms is gone through, so nothing is sampled. There is no baseline.

    Args:
        policy: of one parameter, such as :func:`logistic`.
        theta: where to differentiate, [].
        rewards: what each arm pays, [arms].
        inner_lr: α.
        pulls: in the support set.

    Derived in: Gradient steps in the world, :eq:`eq-world-emaml`.
    """
    if pulls < 1 or inner_lr < 0:
        raise ValueError(f"there must be a pull and a rate that is not negative, not {pulls=}, {inner_lr=}.")
    theta = theta.detach().clone().requires_grad_()

    def slope(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, theta, retain_graph=True, materialize_grads=True)[0]

    objective, plain, sampling, dice = (torch.zeros_like(theta) for _ in range(4))
    for arms in itertools.product(range(len(rewards)), repeat=pulls):
        log_p = policy(theta)[list(arms)].log().sum()
        (step,) = torch.autograd.grad(log_p * rewards[list(arms)].sum(), theta, create_graph=True)
        worth = policy(theta + inner_lr * step) @ rewards
        chance = log_p.exp()
        objective = objective + chance * worth
        plain = plain + chance.detach() * slope(worth)
        sampling = sampling + slope(chance) * worth.detach()
        dice = dice + chance.detach() * slope((log_p - log_p.detach()).exp() * worth)
    return MetaGradients(slope(objective), plain, sampling, dice)
