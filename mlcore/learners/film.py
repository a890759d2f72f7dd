"""FiLM as in CNAPs, on a frozen network (Perez et al., 2018; Requeima, Gordon, Bronskill, Nowozin and Turner, 2019)."""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mlcore.inner import Params
from mlcore.learners.frozen import FrozenNet
from mlcore.learners.metric import MetricLearner, class_means, squared_distances
from mlcore.mapping import Mapping
from mlcore.nets import mlp
from mlcore.nets.norms import BatchNorm
from mlcore.task import Examples


class Written(NamedTuple):
    """What a support set has written."""

    norms: Params  # scale and shift of each modulated normalisation, by name, [channels] each
    prototypes: Any  # [ways, features]; () before any data


class FiLM(FrozenNet):
    """Read the support set, and write a scale and a shift for every channel of a frozen network's last blocks.

    A batch normalisation ends in w ⊙ x̂ + b. From the mean of an encoding of the support images, a network gives
    (γ, β) for each, and the task's own normalisation has w' = w ⊙ (1 + γ), b' = b ⊙ (1 + γ) + β. It starts at
    γ = β = 0, as class means on the frozen features. Queries are compared with the means of the modulated support
    features, by squared distance, its mean over features times a learned scale that starts at 10, as for
    :class:`~mlcore.learners.protonet.ProtoNet`.

    This is CNAPs (Requeima et al., 2019) made small: there a set encoder of its own reads the images, and another
    network writes a linear head. What comes before ``block`` is computed once for an image, whatever the task.

    Args:
        net: pre-trained features, an ``nn.Sequential`` without its head. Its weights stay as they are.
        block: the name of the first child of ``net`` that is modulated, such as ``"block4"``.
        features: length of an embedding.
        width: of the encoding.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Raises:
        TypeError: ``net`` is not an ``nn.Sequential``.
        ValueError: it has no child ``block``, or no batch normalisation from there on.

    Derived in: Writing weights from the support set, :eq:`eq-write-film`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        block: str,
        features: int,
        width: int = 64,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        if not isinstance(net, nn.Sequential):
            raise TypeError(f"the network must be an nn.Sequential of blocks, not {type(net).__name__}.")
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        names = [name for name, _ in net.named_children()]
        if block not in names:
            raise ValueError(f"the network has no block {block!r}; it has {', '.join(names)}.")
        self.first = names.index(block)
        norms = [name for name, module in self.tail.named_modules() if isinstance(module, BatchNorm)]
        if not norms:
            raise ValueError(f"from {block!r} on there is no batch normalisation to modulate; choose an earlier block.")
        sizes = {name: len(cast(BatchNorm, self.tail.get_submodule(name)).weight) for name in norms}
        self.channels = sizes  # of each modulated normalisation
        self.encoder = mlp(features, width, width)
        self.writer = nn.Linear(width, 2 * sum(sizes.values()))
        nn.init.zeros_(self.writer.weight)
        nn.init.zeros_(self.writer.bias)
        self.scale = nn.Parameter(torch.tensor(10.0))

    @property
    def tail(self) -> nn.Sequential:
        """The part of the network that is modulated."""
        return cast(nn.Sequential, self.net)[self.first :]

    def embed(self, x: Any) -> Tensor:
        """What is the same in all tasks: the output of the blocks before ``block``, for inputs [n, *input]."""
        with super(MetricLearner, self).precision(x.device):
            z = cast(nn.Sequential, self.net)[: self.first](x)
        return z.to(next(self.net.parameters()).dtype)

    def modulated(self, norms: Params, x: Tensor) -> Tensor:
        """Embeddings [n, features] of what :meth:`embed` gives, with these scales and shifts."""
        return functional_call(self.tail, norms, (x,))

    def begin(self) -> Written:
        """The scales and shifts of pre-training, and no prototypes."""
        parts = dict(self.tail.named_parameters())
        return Written({f"{n}.{part}": parts[f"{n}.{part}"] for n in self.channels for part in ("weight", "bias")}, ())

    def condition(self, z: Tensor, y: Tensor) -> Tensor:
        """What the writer reads: the mean encoding of embeddings z [n, features], [width]."""
        return self.encoder(z).mean(0)

    def modulation(self, code: Tensor) -> list[tuple[Tensor, Tensor]]:
        """γ and β of each normalisation in turn, [channels] each."""
        gammas, betas = self.writer(code).chunk(2)
        sizes = list(self.channels.values())
        return list(zip(gammas.split(sizes), betas.split(sizes), strict=True))

    def update(self, state: Written, data: Examples) -> Written:
        """Write scales and shifts, then the class means of what they make of the support set."""
        code = self.condition(self.modulated(state.norms, data.x), data.y)
        norms = dict(state.norms)
        for name, (gamma, beta) in zip(self.channels, self.modulation(code), strict=True):
            norms[f"{name}.weight"] = norms[f"{name}.weight"] * (1 + gamma)
            norms[f"{name}.bias"] = norms[f"{name}.bias"] * (1 + gamma) + beta
        return Written(norms, class_means(self.modulated(norms, data.x), data.y))

    def predict(self, state: Written, x: Any) -> Tensor:
        """Minus the mean squared differences from the prototypes, times the scale, the logits: [n, ways]."""
        z = self.modulated(state.norms, x)
        return -self.scale * squared_distances(z, state.prototypes) / z.shape[-1]
