"""Peak memory of a computation, counted in bytes that its tensors asked for: the same number on every run."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library reports every start and stop


def peak_memory(compute: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Bytes that tensors made within ``compute()`` held at the worst moment, beyond those there before.

    On a CPU the allocations are traced, which no other process disturbs; on CUDA the allocator is asked. What the
    calculation needs besides its tensors, such as a convolution library's own buffers, is not counted.

    Chapter: Implicit gradients.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        compute()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        compute()
    results: Any = trace.profiler and trace.profiler.kineto_results
    held = peak = 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
