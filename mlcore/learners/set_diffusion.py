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
    with which x is found (Kingma, Salimans, Poole and Ho, 2021, equations 14 to 18). Its draws are torch's.

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
        nn.init.zeros_(self.last.weight)

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
        alone = 2 * z * torch.exp(-level / 2) / level.sigmoid().sqrt()  # 2αz/σ²
        time = math.pi * (level - self.quiet) / (self.loud - self.quiet)
        said = [count.log1p().expand(1), total.flatten(0) / count.clamp(min=1)]
        maps = [
            part.reshape(1, -1, *shape).expand(len(z), -1, self.size, self.size)
            for part, shape in zip(said, ((1, 1), (self.size, self.size)), strict=True)
        ]
        clock = [part.expand_as(z) for part in (time, time.cos(), time.sin())]
        seen = torch.cat([z, (alone / 2).tanh(), *clock, *maps], 1)
        margin = -self.size % 8
        edges = [margin // 2, margin - margin // 2] * 2
        added = self.last(self.net(F.pad(seen, edges)))
        return alone + F.pad(added, [-edge for edge in edges])

    def predict(self, state: State, x: Any) -> Tensor:
        """A lower bound of log p(x | the members seen) for each query, up to chance, in nats: [n]."""
        samples = 1 if self.training else self.samples
        n, clean = len(x), signed(x).expand(samples, *x.shape).flatten(0, 1)
        # Levels that are spread evenly, over the draws of a query and over the queries, vary the mean least.
        at = (torch.rand_like(x[:1].flatten()[:1]) + torch.arange(n, device=x.device) / n) % 1
        at = (torch.arange(samples, device=x.device)[:, None] + at).flatten() / samples
        gamma = self.quiet + (self.loud - self.quiet) * at
        z = noisy(clean, gamma, torch.randn_like(clean))
        found = (self.logits(state, z, gamma) / 2).tanh()
        errors = (clean - found).square().flatten(1).sum(1)
        lost = (self.loud - self.quiet) / 2 * torch.exp(-gamma) * errors
        return -(lost + self.ends(clean)).view(samples, n).mean(0)

    def ends(self, clean: Tensor) -> Tensor:
        """Nats lost where the noise begins, and where it ends: [n], for x = ±1 [n, 1, size, size]."""
        quiet, loud = (clean.new_full((len(clean),), level) for level in (self.quiet, self.loud))
        z = noisy(clean, quiet, torch.randn_like(clean))
        alone = 2 * z * math.exp(-self.quiet / 2) / quiet.sigmoid().sqrt()[:, None, None, None]
        unread = F.softplus(-clean * alone).flatten(1).sum(1)
        left = clean[0].numel() * -F.logsigmoid(loud) / 2  # KL of N(αx, σ²) from N(0, 1), where α² + σ² = 1
        return unread + left

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
        return Bernoulli(self.logits(state, z, levels[-1].expand(n)))


def signed(x: Tensor) -> Tensor:
    """Ink (1) and paper (0) as 1 and -1."""
    return 2 * x - 1


def noisy(x: Tensor, gamma: Tensor, noise: Tensor) -> Tensor:
    """αx + σε for log-odds gamma [n] of noise, whose variances α² and σ² add up to 1."""
    scale, sd = _scales(gamma[:, None, None, None])
    return scale * x + sd * noise


def _scales(gamma: Tensor) -> tuple[Tensor, Tensor]:
    return (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
