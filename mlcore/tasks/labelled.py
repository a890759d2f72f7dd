"""Labelled data of users as one tensor of examples and one of class numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


def tensors_of(dataset: Dataset) -> tuple[Tensor, list]:
    """All examples and labels of a dataset, read once into memory."""
    examples, labels = zip(*((x, y) for x, y in dataset), strict=True)
    if not isinstance(examples[0], Tensor):
        from torchvision.transforms.functional import pil_to_tensor

        examples = [pil_to_tensor(image) for image in examples]
    shapes = {tuple(example.shape) for example in examples}
    if len(shapes) > 1:
        raise ValueError(
            f"the dataset's examples have different shapes, such as {sorted(shapes)[:2]}; add a resize transform."
        )
    labels = [label.item() if isinstance(label, Tensor) else label for label in labels]
    names = getattr(dataset, "classes", None)  # as torchvision's datasets have them
    if names is not None and getattr(dataset, "target_transform", None) is None:
        labels = [names[label] for label in labels]
    return torch.stack(list(examples)), labels


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
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.dtype.kind == "O" and array.ndim == 1 and len(array):  # a column of objects, as pandas keeps strings
        kind = str if isinstance(array[0], str) else int
        wrong = [i for i, label in enumerate(array) if not isinstance(label, kind)]
        if wrong:
            raise TypeError(
                f"labels must be all integers or all strings, but that of example {wrong[0]} is {array[wrong[0]]!r}."
            )
        array = array.astype(kind)
    if array.ndim != 1:
        raise ValueError(f"y must have one label for each example, shape [n], not {list(array.shape)}.")
    if array.dtype.kind not in "iuUS":
        fix = "use y.long() for whole-number floats" if array.dtype.kind == "f" else "convert them"
        raise TypeError(f"labels must be integers or strings, not {array.dtype}; {fix}.")
    names, labels = np.unique(array, return_inverse=True)
    return names.tolist(), torch.from_numpy(labels.astype(np.int64))
