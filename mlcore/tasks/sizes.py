"""What samplers refuse."""

import numpy as np
import torch


def check_positive(**sizes: int) -> None:
    """Refuse sizes that are not whole numbers of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be at least 1, and whole, not {value!r}.")


def check_generator(generator: torch.Generator) -> None:
    """Refuse what is no generator."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"sample() needs a torch.Generator, not {generator!r}; write seeded(0).")
