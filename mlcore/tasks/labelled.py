"""Labelled data of users as one tensor of examples and one of class numbers."""

from bisect import bisect_right
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset


def tensors_of(dataset: Dataset) -> tuple[Tensor, list]:
    """All examples and labels of a dataset, each item looked at once, and no example held twice."""
    if is_indexed(dataset):
        count, pairs = size_of(dataset), (read(dataset, i) for i in range(size_of(dataset)))
    else:  # it can only be gone through
        pairs = [_parted(dataset, i, item) for i, item in enumerate(dataset)]  # pyright: ignore[reportArgumentType]
        count = len(pairs)
    if not count:
        raise ValueError("the dataset is empty; give one with examples of every class.")
    x, labels = torch.empty(0), []
    for i, (example, label) in enumerate(pairs):
        if not i:
            x = example.new_empty(count, *example.shape)
        check_alike(i, example, x)
        x[i] = example
        labels.append(label)
    return x, labels


def is_indexed(dataset: Dataset) -> bool:
    """Whether items are read by number, as long as there are any."""
    return hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)


def size_of(dataset: Any) -> int:
    """How many items there are, whatever iteration would give."""
    return len(dataset)


def read(dataset: Any, i: int) -> tuple[Tensor, Any]:
    """Item i of a dataset: its example as a tensor; its label, or the name that the dataset has for it.

    Raises:
        ValueError, TypeError: one sentence with the number of the item.
    """
    try:
        item = dataset[i]
    except Exception as error:
        said = str(error).splitlines()[0].rstrip(".") if str(error) else ""
        raise ValueError(
            f"item {i} of the dataset cannot be read ({type(error).__name__}: {said}); mend it or leave it out."
        ) from error
    return _parted(dataset, i, item)


def _parted(dataset: Any, i: int, item: Any) -> tuple[Tensor, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        kind = f"{len(item)} things" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
        raise TypeError(f"item {i} of the dataset is {kind}, not a pair (example, label); give pairs.")
    example, label = item
    return _tensor(i, example), named(dataset, i, label)


def _tensor(i: int, example: Any) -> Tensor:
    if isinstance(example, Tensor):
        return example.detach()
    try:
        if hasattr(example, "getbands"):  # a picture of PIL's
            from torchvision.transforms.functional import pil_to_tensor

            return pil_to_tensor(example)
        return examples_of(example if isinstance(example, np.ndarray) else np.asarray(example))
    except TypeError as error:
        raise TypeError(
            f"the example of item {i} is a {type(example).__name__}, not a tensor, an array or an image; "
            "convert it in the dataset."
        ) from error


def check_alike(i: int, example: Tensor, others: Any) -> None:
    """Refuse an example that does not go into ``others`` [n, *input]."""
    if example.shape != others.shape[1:]:
        raise ValueError(
            f"the example of item {i} has shape {list(example.shape)}, but that of item 0 {list(others.shape[1:])}; "
            "add a resize transform."
        )
    if example.dtype != others.dtype:
        raise ValueError(f"the example of item {i} is {example.dtype}, but that of item 0 {others.dtype}; convert it.")


def named(dataset: Any, i: int, label: Any) -> Any:
    """The label of item i as a plain value, or the name that the dataset has for it."""
    if isinstance(label, Tensor | np.ndarray | np.generic) and np.prod(label.shape) == 1:
        label = label.item()
    names = _names(dataset, i)
    if names is None or not isinstance(label, int):
        return label
    if not 0 <= label < len(names):
        raise ValueError(f"item {i} of the dataset has label {label}, but the dataset names {len(names)} classes.")
    return names[label]


def _names(dataset: Any, i: int) -> Sequence | None:
    """The names of classes where item i comes from, which is what torchvision's datasets call ``classes``."""
    if isinstance(dataset, Subset):
        return _names(dataset.dataset, int(dataset.indices[i]))
    if isinstance(dataset, ConcatDataset):
        part = bisect_right(dataset.cumulative_sizes, i)
        return _names(dataset.datasets[part], i - (dataset.cumulative_sizes[part - 1] if part else 0))
    names = getattr(dataset, "classes", None)
    renamed = getattr(dataset, "target_transform", None) is not None
    return names if isinstance(names, list | tuple) and not renamed else None


def scaled(x: Tensor) -> Tensor:
    """Image bytes as floats in [0, 1]; anything else as it is."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def first_not_finite(x: Tensor) -> int | None:
    """The first of examples [n, ...] that holds a number that is not finite."""
    if x.is_floating_point():
        for start in range(0, len(x), 64):  # in portions: torch needs more than the data's size again for an answer
            finite = x[start : start + 64].isfinite()
            if not finite.all():
                return start + int(finite.flatten(1).all(1).logical_not().nonzero()[0])
    return None


def examples_of(x: Tensor | np.ndarray | Sequence) -> Tensor:
    """One tensor of all examples; numpy's doubles, and those of pandas, in single precision."""
    if isinstance(x, Tensor):
        return x
    try:
        array = np.stack([np.asarray(example) for example in x]) if isinstance(x, list | tuple) else np.asarray(x)
        return torch.as_tensor(array.astype(np.float32) if array.dtype == np.float64 else array)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"x must hold numbers, each example in the same shape: [n, *input]; {str(error).rstrip('.')}."
        ) from error


def class_labels(y: Tensor | np.ndarray | Sequence) -> tuple[list, Tensor]:
    """Sorted class names, and for each example the position of its own."""
    if isinstance(y, Tensor):
        array = y.detach().cpu().numpy()
    elif isinstance(y, list | tuple):  # numpy would make strings of 1 and "a"
        array = np.array([part.item() if isinstance(part, Tensor) else part for part in y], dtype=object)
    else:
        array = np.asarray(y)
    if array.ndim != 1:
        raise ValueError(f"y must have one label for each example, shape [n], not {list(array.shape)}.")
    if not len(array):
        raise ValueError("there are no labels; give one for each example.")
    if array.dtype.kind == "O":  # a list, or a column of objects, as pandas keeps strings
        kind, plain = next((kinds for kinds in _KINDS if isinstance(array[0], kinds[0])), (Integral, int))
        wrong = [i for i, label in enumerate(array) if not isinstance(label, kind)]
        if wrong:
            raise TypeError(
                f"labels must be all integers or all strings, but that of example {wrong[0]} is {array[wrong[0]]!r}."
            )
        array = array.astype(plain)
    if array.dtype.kind not in "iuUS":
        fix = "use y.long() for whole-number floats" if array.dtype.kind == "f" else "convert them"
        raise TypeError(f"labels must be integers or strings, not {array.dtype}; {fix}.")
    names, labels = np.unique(array, return_inverse=True)
    return names.tolist(), torch.from_numpy(labels.astype(np.int64))


_KINDS: tuple[tuple[Any, type], ...] = ((str, str), (bool | np.bool_, bool), (float | np.floating, float))
