"""Pendulums that stand on their heads, each with a mass, a length and a friction of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from mlcore.densities import either
from mlcore.objective import Objective
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size


class Physics(nn.Module):
    """φ: angle, velocity and torque [n, 3] to what Newton's law is linear in, (sin q, ω, u) [n, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1].sin(), x[..., 1:]], -1)


class Pendulums(Functions):
    """A task is a pendulum, and its transitions: angle from the top, velocity and torque to the acceleration.

    ω̇ = sin q / ℓ - b ω / (m ℓ²) + u / (m ℓ²) + ε in units of the nominal pendulum: its length, its mass, and the time
    √(length/g). The mass m is log-uniform on [¼, 4], the length ℓ uniform on [0.7, 1.4], the friction b on [0, 0.6], ε
    from N(0, noise²). Angles and velocities are uniform on [-1, 1], torques on [-2, 2].

    Args:
        noise: standard deviation of a measured acceleration.
        shots, queries: transitions to learn from and asked about, or ranges, of which every batch draws one.

    Derived in: Gradient steps in the world, :eq:`eq-world-plant`.
    """

    objective: Objective = either

    def __init__(self, *, noise: float = 0.3, shots: Size = (2, 50), queries: Size = 20) -> None:
        if noise < 0:
            raise ValueError(f"noise={noise} must not be negative; it is a standard deviation.")
        self.noise = noise
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"Pendulums(noise={self.noise}; shots={self.shots}, queries={self.queries})"

    def plants(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """1/ℓ, -b/(mℓ²) and 1/(mℓ²) of pendulums [n_tasks, 3]: the slopes of the acceleration at the top."""
        mass, length, friction = torch.rand(n_tasks, 3, generator=generator).unbind(1)
        mass, length, friction = 4 ** (2 * mass - 1), 0.7 + 0.7 * length, 0.6 * friction
        inertia = mass * length**2
        return torch.stack([1 / length, -friction / inertia, 1 / inertia], 1)

    def transitions(self, plants: Tensor, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs [tasks, points, 3] and measured accelerations [tasks, points, 1] of given pendulums."""
        x = 2 * torch.rand(len(plants), points, 3, generator=generator) - 1
        x = x * torch.tensor([1.0, 1.0, 2.0])
        noise = self.noise * torch.randn(*x.shape[:2], 1, generator=generator)
        return x, Physics()(x) @ plants[..., None] + noise

    def draw(self, n_tasks: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Transitions of new pendulums."""
        return self.transitions(self.plants(n_tasks, generator), points, generator)


def pendulums(**settings: Any) -> Pendulums:
    """Pendulums on their heads, see :class:`Pendulums`."""
    return Pendulums(**settings)
