"""The matched filter: where does a template fit, and so which pixels are its own (Turin, 1960)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.task import Examples

_TINY = 1e-6


class MatchedFilter(Learner):
    """Normalised cross-correlation with the support's mask, in several sizes; the rival that costs nothing.

    Somewhere on the canvas is the template, all places and sizes being equally likely beforehand. A place is as likely
    as exp(κ² r²) of its correlation r, floored at 0; a pixel, as the places whose template covers it. Only κ is
    learned. In white noise of known strength correlation decides best; r² is what is left of the likelihood ratio where
    contrast and brightness are unknown.

    Colours are averaged. Of several support drawings the templates are averaged.

    Args:
        sizes: of the template, as multiples of the support's.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: Find it, outline it, :eq:`eq-find-matched` and :eq:`eq-find-posterior`.
    """

    def __init__(self, sizes: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4, 2.0), *, mapping: Mapping = "vmap") -> None:
        super().__init__(mapping=mapping)
        self.sizes = sizes
        self.kappa = nn.Parameter(torch.tensor(5.0))

    def begin(self) -> tuple[Tensor, Tensor]:
        """No template."""
        return self.kappa.new_zeros(()), self.kappa.new_zeros(())

    def update(self, state: tuple[Tensor, Tensor], data: Examples) -> tuple[Tensor, Tensor]:
        """Add masks y [n, height, width], and their number."""
        return state[0] + data.y.to(self.kappa.dtype).sum(0), state[1] + len(data.y)

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Tensor:
        """Logits [n, height, width] of the mask in each canvas x [n, channels, height, width]."""
        mean = (state[0] / state[1])[None, None]
        templates = [F.interpolate(mean, scale_factor=s, mode="bilinear", antialias=True)[0, 0] for s in self.sizes]
        grey = x.mean(1)
        r = torch.stack([normalised_correlation(grey, t) for t in templates], 1)  # [n, sizes, height, width]
        fits = (self.kappa * r.clamp(min=0)).square().flatten(1).softmax(1).view(r.shape)
        laid = [_filtered(fits[:, i], t.flip(0, 1), mirrored=True) for i, t in enumerate(templates)]
        covered = torch.stack(laid).sum(0)
        return torch.logit(covered.clamp(_TINY, 1 - _TINY))


def normalised_correlation(x: Tensor, template: Tensor) -> Tensor:
    """The correlation, from -1 to 1, of a template with the window around each place: [n, height, width].

    Beyond the edges a canvas x [n, height, width] is 0. Where a window is of one value, it is 0.

    Derived in: Find it, outline it, :eq:`eq-find-ncc`.
    """
    centred = template - template.mean()
    window, area = torch.ones_like(template), template.numel()
    total, squares = _filtered(x, window), _filtered(x.square(), window)
    spread = (squares - total.square() / area).clamp(min=0)
    scale = (spread * centred.square().sum()).clamp(min=_TINY).sqrt()
    return (_filtered(x, centred) / scale).where(spread > _TINY, 0.0)


def _filtered(x: Tensor, template: Tensor, *, mirrored: bool = False) -> Tensor:
    """Correlation of canvases [n, height, width] with a template whose middle is at each place, by Fourier's way.

    Of an even number of rows or columns the middle is the one before, or in a mirrored template the one after.
    """
    (height, width), (rows, columns) = x.shape[-2:], template.shape
    size = height + rows - 1, width + columns - 1
    product = torch.fft.rfft2(x, s=size) * torch.fft.rfft2(template, s=size).conj()
    whole = torch.fft.irfft2(product, s=size).roll((_middle(rows, mirrored), _middle(columns, mirrored)), (-2, -1))
    return whole[..., :height, :width]


def _middle(side: int, mirrored: bool) -> int:
    return side // 2 if mirrored else (side - 1) // 2
