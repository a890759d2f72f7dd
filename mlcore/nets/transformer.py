"""A pre-norm transformer encoder in plain arithmetic, right under ``torch.vmap`` twice differentiated."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.nets.derivatives import attention, layer_norm


class LayerNorm(nn.LayerNorm):
    """torch's layer normalisation in arithmetic that has right derivatives."""

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Attention with several heads, as two matrix products; weights as in torch's ``nn.MultiheadAttention``."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        if features % heads:
            raise ValueError(f"features={features} must be a multiple of heads={heads}.")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * features, features)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * features))
        self.out_proj = nn.Linear(features, features)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Of queries [n, asking, features] to keys and values [n, length, features].

        ``allowed``, which broadcasts to [n, heads, asking, length]: who may see whom.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        if queries is keys and keys is values:  # one product is faster than three
            parts = F.linear(queries, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            parts = map(F.linear, (queries, keys, values), weights, biases)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in parts)
        return self.out_proj(attention(query, key, value, allowed).transpose(-2, -3).flatten(-2))


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + two linear layers of norm(x)."""

    def __init__(self, features: int, heads: int, hidden: int, norm: type[nn.Module], dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(features), norm(features)
        self.self_attn = Attention(features, heads)
        self.linear1, self.linear2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        """``x`` [n, length, features] looks at ``memory`` [n, other length, features], at itself by default."""
        asking = self.norm1(x)
        seen = asking if memory is None else self.norm1(memory)
        x = x + self.dropout(self.self_attn(asking, seen, seen, allowed))
        return x + self.dropout(self.linear2(F.gelu(self.linear1(self.norm2(x)))))


class TransformerEncoder(nn.Module):
    """A transformer (Vaswani et al., 2017) over sequences, each layer normalised at its start, and the end as well.

    With ``norm="layer"`` it computes what ``nn.TransformerEncoder`` does, and takes over its state dict, where that has
    ``norm_first=True, batch_first=True, activation="gelu"`` and a final ``nn.LayerNorm``.

    Args:
        features: size of an element of the sequence.
        heads: of attention; features is a multiple of it.
        layers: how many.
        hidden: width between the two linear layers, four times the features by default.
        norm: ``"rms"`` for ``nn.RMSNorm`` or ``"layer"``.
        causal: an element sees itself and those before it.
        dropout: of what each half of a layer adds.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        layers: int,
        *,
        hidden: int | None = None,
        norm: Literal["rms", "layer"] = "rms",
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if norm not in ("rms", "layer"):
            raise ValueError(f"norm must be 'rms' or 'layer', not {norm!r}.")
        if layers < 1:
            raise ValueError(f"layers must be at least 1, not {layers}.")
        kind = nn.RMSNorm if norm == "rms" else LayerNorm
        width = hidden or 4 * features
        self.layers = nn.ModuleList(EncoderLayer(features, heads, width, kind, dropout) for _ in range(layers))
        self.norm = kind(features)
        self.causal = causal

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """[n, length, features] -> [n, length, features]; nobody sees where ``padding`` [n, length] is True."""
        allowed = None if padding is None else ~padding[:, None, None, :]
        if self.causal:
            before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            allowed = before if allowed is None else allowed & before
        return self.norm(self.layers[-1](self.read(x, allowed)[-1], allowed))

    def read(self, x: Tensor, allowed: Tensor | None = None) -> list[Tensor]:
        """What each layer is given, for :meth:`ask`: [n, length, features] each."""
        given = [x]
        for layer in self.layers[:-1]:
            given.append(layer(given[-1], allowed))
        return given

    def ask(self, x: Tensor, given: list[Tensor], allowed: Tensor | None = None) -> Tensor:
        """The outputs of elements [n, length, features] that see what :meth:`read` gives, and not each other."""
        for layer, memory in zip(self.layers, given, strict=True):
            x = layer(x, allowed, memory)
        return self.norm(x)
