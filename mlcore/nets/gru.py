"""A GRU in plain arithmetic, which ``torch.vmap`` maps; torch's own cell has no rule."""

from torch import Tensor, nn


class GRUCell(nn.Module):
    """A step of a gated recurrent unit (Cho et al., 2014), with torch's gates: those of :class:`torch.nn.GRUCell`.

    Args:
        inputs: size of an input.
        hidden: size of the state.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(inputs, 3 * hidden), nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """From x [..., inputs] and state [..., hidden], the next state."""
        reset, keep, candidate = self.of_input(x).chunk(3, -1)
        reset_s, keep_s, candidate_s = self.of_state(state).chunk(3, -1)
        keep = (keep + keep_s).sigmoid()
        new = (candidate + (reset + reset_s).sigmoid() * candidate_s).tanh()
        return new + keep * (state - new)
