"""An LSTM in plain arithmetic, which ``torch.vmap`` maps and which has second derivatives; torch's own has no rule."""

import torch
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """A step of an LSTM (Hochreiter and Schmidhuber, 1997), and :meth:`read` for whole sequences.

    Args:
        inputs: size of an input.
        hidden: size of the hidden state that a step is given.
        outputs: size of the hidden state that it gives, ``hidden`` by default; a caller may join something to it before
            the next step, such as what an attention read.
    """

    def __init__(self, inputs: int, hidden: int, *, outputs: int | None = None) -> None:
        super().__init__()
        self.outputs = outputs or hidden
        self.gates = nn.Linear(inputs + hidden, 4 * self.outputs)  # input, forget, output, candidate

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """From x [..., inputs], hidden [..., hidden] and cell [..., outputs], the next two, both [..., outputs]."""
        admit, forget, output, candidate = self.gates(torch.cat([x, hidden], -1)).chunk(4, -1)
        cell = forget.sigmoid() * cell + admit.sigmoid() * candidate.tanh()
        return output.sigmoid() * cell.tanh(), cell

    def read(self, sequence: Tensor) -> Tensor:
        """The hidden states [steps, ..., outputs] over a sequence [steps, ..., inputs], starting from zeros."""
        hidden = cell = sequence.new_zeros(*sequence.shape[1:-1], self.outputs)
        states = []
        for x in sequence:
            hidden, cell = self(x, hidden, cell)
            states.append(hidden)
        return torch.stack(states)
