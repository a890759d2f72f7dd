"""Examples that stay on disk until an episode asks for them."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from mlcore.tasks.labelled import check_alike, is_indexed, named, read, size_of


class OnDisk:
    """The examples of a dataset in the place of one tensor of them, as far as sampling needs one.

    Args:
        dataset: read by ``len()`` and index. Its transforms should draw nothing at random: an item is read as often as
            episodes ask for it.
        labels: the labels, where they are not those of the dataset. An item whose own label is not the one that the
            dataset lists for it is refused.
        workers: read the items of a batch in that many threads.
    """

    device = torch.device("cpu")

    def __init__(self, dataset: Dataset, labels: Any = None, workers: int | None = None) -> None:
        if not is_indexed(dataset):
            raise TypeError(
                f"lazy=True reads items by number, which {type(dataset).__name__} cannot do; give a dataset with "
                "__len__ and __getitem__."
            )
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}; leave it out to read without threads.")
        if not size_of(dataset):
            raise ValueError("the dataset is empty; give one with examples of every class.")
        self.dataset, self.workers = dataset, workers
        self.listed = labels_of(dataset) if labels is None else None
        self.labels: Any = self.listed if labels is None else labels
        first, _ = read(dataset, 0)
        self.shape = torch.Size((size_of(dataset), *first.shape))
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """As of a tensor."""
        return len(self.shape)

    def to(self, device: torch.device | str) -> Self:
        """The same examples, delivered on ``device``."""
        other = copy.copy(self)
        other.device = torch.device(device)
        return other

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The examples with these numbers, each read once: [len(index), *input]."""
        distinct, position = index.cpu().unique(return_inverse=True)
        if self.workers is None:
            examples = [self._example(i) for i in distinct.tolist()]
        else:
            with ThreadPoolExecutor(self.workers) as threads:
                examples = list(threads.map(self._example, distinct.tolist()))
        return torch.stack(examples)[position].to(self.device)

    def _example(self, i: int) -> Tensor:
        example, label = read(self.dataset, i)
        check_alike(i, example, self)
        if example.is_floating_point() and not example.isfinite().all():
            raise ValueError(f"example {i} holds a number that is not finite; mend it or leave it out.")
        if self.listed is not None and label != self.listed[i]:
            raise ValueError(f"item {i} has label {label!r}, but the dataset's list of labels says {self.listed[i]!r}.")
        return example


def labels_of(dataset: Any) -> list:
    """The label or class name of every item; without reading examples, where the dataset lists its labels."""
    listed = _listed(dataset)
    return [read(dataset, i)[1] for i in range(size_of(dataset))] if listed is None else listed


def _listed(dataset: Any) -> list | None:
    if type(dataset) is Subset:
        whole = _listed(dataset.dataset)
        return None if whole is None else [whole[i] for i in dataset.indices]
    if type(dataset) is ConcatDataset:
        parts = [_listed(part) for part in dataset.datasets]
        return None if None in parts else [label for part in parts for label in part or ()]
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))  # as torchvision's datasets have them
    if labels is None or len(labels) != size_of(dataset):
        return None
    change = getattr(dataset, "target_transform", None) or (lambda label: label)
    return [named(dataset, i, change(label)) for i, label in enumerate(labels)]
