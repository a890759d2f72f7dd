"""Meta-training on several processes: each takes its share of every meta-batch, and all make the same update."""

import torch
import torch.distributed as dist

from mlcore.learner import Learner


def rank_and_world() -> tuple[int, int]:
    """This process's number, and how many there are: (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def from_the_first(state: dict) -> dict:
    """The first process's state, on all."""
    states = [state]
    dist.broadcast_object_list(states, src=0)
    return states[0]


def share(learner: Learner, summary: torch.Tensor, *, weight: float) -> torch.Tensor:
    """Average gradients, running statistics and the summary over ranks, each weighted by its share of the tasks."""
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    shared = [*gradients, *(b for b in learner.buffers() if b.is_floating_point()), summary]
    # In double precision and one message: 2 ranks then round as one process does.
    flat = torch.cat([tensor.cpu().double().flatten() for tensor in shared]) * weight
    dist.all_reduce(flat)
    for tensor, part in zip(shared, flat.split([tensor.numel() for tensor in shared]), strict=True):
        tensor.copy_(part.view_as(tensor))
    return summary
