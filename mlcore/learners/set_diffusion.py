"""A diffusion model that has seen a few of a kind: noise is taken away step by step, in the light of a set."""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mlcore.densities import Bernoulli
from mlcore.generative import Sampler
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets.unet import UNet
from mlcore.task import Examples

State = tuple[Tensor, Tensor]
"""The sum of the members' feature maps [features, size, size], and how many they are []."""


class SetDiffusion(Sampler, Learner):
    """Ink and paper become noise, z = αx + σε with x = ±1, and a network that has seen a set finds x in z again.

    A noise level has log-odds γ = log σ²/α², which run from ``quiet`` to ``loud``. Each pixel by itself has the logit
    of ink 2αz/σ²; a U-Net adds what the other pixels, and the set, say about it. The set speaks through the mean of
    its members' feature maps, so the state is a sum and a count, as the statistician's, and a support set may come in
    portions (few-shot diffusion: Giannone, Nielsen and Winther, 2022).

    ``predict`` estimates a lower bound of log p(x | S) in nats, without bias: an integral over γ of the squared error
    with which x is found (Kingma, Salimans, Poole and Ho, 2021, in continuous time). Its draws are torch's.

    Args:
        size: of a drawing, in pixels a side.
        features: maps that the network sees of the set.
        widths: of the U-Net, from full resolution to an eighth.
        samples: noise levels a query that a prediction averages over; training takes one.
        steps: from noise to a drawing.
        quiet, loud: γ where the noise begins and ends.
        mapping, bfloat16: as for :class:`~mlcore.learner.Learner`.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-denoising`.
    """

    def __init__(
        self,
        size: int = 28,
        *,
        features: int = 8,
        widths: tuple[int, int, int, int] = (16, 32, 64, 96),
        samples: int = 16,
        steps: int = 100,
        quiet: float = -3.0,
        loud: float = 6.0,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(mapping=mapping, bfloat16=bfloat16)
        for name, value in {"samples": samples, "steps": steps}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if quiet >= loud:
            raise ValueError(f"quiet={quiet} must be below loud={loud}: noise begins where it is less.")
        self.size, self.features, self.samples, self.steps = size, features, samples, steps
        self.quiet, self.loud = quiet, loud
        self.encoder = nn.Sequential(
            nn.Conv2d(1, features, 5, padding=2), nn.ReLU(), nn.Conv2d(features, features, 5, padding=2), nn.ReLU()
        )
        self.net = UNet(features + 6, widths)
        self.last = nn.Conv2d(widths[0], 1, 1)
        nn.init.zeros_(self.last.weight)  # at first, nearly each pixel by itself

    def begin(self) -> State:
        """Nothing seen."""
        return self.last.weight.new_zeros(self.features, self.size, self.size), self.last.weight.new_zeros(())

    def update(self, state: State, data: Examples) -> State:
        """Add the feature maps of more members [n, 1, size, size], and their number."""
        return state[0] + self.encoder(signed(data.x)).sum(0), state[1] + len(data.x)

    def logits(self, state: State, z: Tensor, gamma: Tensor) -> Tensor:
        """Of ink in each pixel, given noisy drawings z [n, 1, size, size] of noise levels gamma [n]."""
        total, count = state
        level = gamma[:, None, None, None]
        alone = read_alone(z, level)
        time = math.pi * (level - self.quiet) / (self.loud - self.quiet)
        told = [part.expand_as(z) for part in (time, time.cos(), time.sin(), count.log1p())]
        members = (total / count.clamp(min=1)).expand(len(z), -1, -1, -1)
        seen = torch.cat([z, (alone / 2).tanh(), *told, members], 1)
        margin = -self.size % 8
        edges = [margin // 2, margin - margin // 2] * 2
        added = self.last(self.net(F.pad(seen, edges)))
        return alone + F.pad(added, [-edge for edge in edges])

    def predict(self, state: State, x: Any) -> Tensor:
        """A lower bound of log p(x | the members seen) for each query, up to chance, in nats: [n]."""
        samples = 1 if self.training else self.samples
        n, clean = len(x), signed(x).expand(samples, *x.shape).flatten(0, 1)
        # Levels that are spread evenly over the queries, and over the draws of each, vary less than independent ones.
        start = torch.rand_like(x.flatten()[:1])  # of each task its own, under vmap as well
        at = (start + torch.arange(n, device=x.device) / n) % 1
        at = (torch.arange(samples, device=x.device)[:, None] + at).flatten() / samples
        gamma = self.quiet + (self.loud - self.quiet) * at
        z = noisy(clean, gamma, torch.randn_like(clean))
        found = (self.logits(state, z, gamma) / 2).tanh()
        errors = (clean - found).square().flatten(1).sum(1)
        lost = (self.loud - self.quiet) / 2 * torch.exp(-gamma) * errors
        return -lost.view(samples, n).mean(0) - self.ends * self.size**2

    @property
    def ends(self) -> float:
        """Nats that a pixel costs where the noise begins, if it is read by itself there, and where the noise ends."""
        noise = torch.linspace(-10, 10, 2_001, dtype=torch.float64)
        quiet = torch.tensor(self.quiet, dtype=torch.float64)
        misread = F.softplus(-read_alone(noisy(torch.ones(1, 1, 1, 1), quiet[None], noise), quiet))
        unread = torch.trapezoid(misread.flatten() * torch.exp(-(noise**2) / 2), noise) / math.sqrt(2 * math.pi)
        left = math.log1p(math.exp(-self.loud)) / 2  # KL of N(αx, σ²) from N(0, 1), where α² + σ² = 1
        return unread.item() + left

    @torch.no_grad()
    def imagine(self, state: State, n: int, generator: Generator) -> Bernoulli:
        """``n`` drawings, each from its own noise in ``steps`` steps, before the last one draws ink."""

        def noise() -> Tensor:
            return torch.randn(n, 1, self.size, self.size, generator=generator).to(state[0])

        levels = torch.linspace(self.loud, self.quiet, self.steps + 1).to(state[0])
        z = noise()
        for now, then in pairwise(levels):
            found = (self.logits(state, z, now.expand(n)) / 2).tanh()
            fresh = -torch.expm1(then - now)  # the share of the variance that this step draws anew
            (was, _), (scale, sd) = _scales(now), _scales(then)
            z = scale * ((1 - fresh) * z / was + fresh * found) + sd * fresh.sqrt() * noise()
        return Bernoulli(read_alone(z, levels[-1]))


def signed(x: Tensor) -> Tensor:
    """Ink (1) and paper (0) as 1 and -1."""
    return 2 * x - 1


def noisy(x: Tensor, gamma: Tensor, noise: Tensor) -> Tensor:
    """αx + σε for log-odds gamma [n] of noise, whose variances α² and σ² add up to 1."""
    scale, sd = _scales(gamma[:, None, None, None])
    return scale * x + sd * noise


def read_alone(z: Tensor, gamma: Tensor) -> Tensor:
    """2αz/σ², the logit of ink in a pixel by itself."""
    return 2 * z * torch.exp(-gamma / 2) / gamma.sigmoid().sqrt()


def _scales(gamma: Tensor) -> tuple[Tensor, Tensor]:
    return (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
