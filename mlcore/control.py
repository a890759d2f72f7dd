"""Linear-quadratic control of a plant that is known, or thought to be."""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov


class Linear(NamedTuple):
    """x' = A x + B u, a step later."""

    a: np.ndarray  # [states, states]
    b: np.ndarray  # [states, inputs]


def pendulum(slopes: np.ndarray, step: float = 0.1) -> Linear:
    """A pendulum at the top: velocity, then angle, moved by Euler's rule.

    Args:
        slopes: of the acceleration with respect to angle, velocity and torque [3].
        step: the time between two actions.
    """
    angle, velocity, torque = slopes
    faster = np.array([step * angle, 1 + step * velocity])
    return Linear(np.array([[1, 0] + step * faster, faster]), np.array([[step**2 * torque], [step * torque]]))


def best_gain(plant: Linear, price: float = 0.1) -> np.ndarray:
    """K [inputs, states] of the control u = -Kx of least cost Σ x'x + price · u'u, by Riccati's equation.

    Raises:
        LinAlgError: no control keeps the plant in balance.

    Derived in: Gradient steps in the world, :eq:`eq-world-riccati`.
    """
    a, b = plant
    price_of = price * np.eye(b.shape[1])
    p = solve_discrete_are(a, b, np.eye(len(a)), price_of)
    return np.linalg.solve(price_of + b.T @ p @ b, b.T @ p @ a)


def cost(plant: Linear, gain: np.ndarray, price: float = 0.1) -> float:
    """The expected cost of u = -Kx from a start of covariance I, exact, by Lyapunov's equation; infinite if it falls.

    Derived in: Gradient steps in the world, :eq:`eq-world-riccati`.
    """
    closed = plant.a - plant.b @ gain
    if not np.isfinite(closed).all() or np.abs(np.linalg.eigvals(closed)).max() >= 1:
        return float("inf")
    return float(np.trace(solve_discrete_lyapunov(closed.T, np.eye(len(closed)) + price * gain.T @ gain)))
