"""Tasks, and distributions of tasks to sample them from.

A few-shot task is a *support set* to learn from and a *query set* to be judged on. Everything in this package either
samples tasks or learns from them. The chapter *Tasks and episodes* builds this module step by step.
"""

import copy
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Task(NamedTuple):
    """A batch of tasks. Every tensor leads with the tasks dimension; write ``x[None]`` for a single task.

    Shapes: ``support_x`` [tasks, n_support, *input]; ``support_y`` [tasks, n_support] int64 class labels, or
    [tasks, n_support, *output] floats for regression; ``query_x`` and ``query_y`` alike with n_query.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    def to(self, device: torch.device | str) -> "Task":
        """The same tasks on another device."""
        return Task(*(part.to(device) for part in self))

    def split(self, size: int) -> list["Task"]:
        """The same tasks in batches of at most ``size``."""
        return [Task(*parts) for parts in zip(*(part.split(size) for part in self), strict=True)]

    def shard(self, part: int, parts: int) -> "Task":
        """Every ``parts``-th task, starting at ``part``: one worker's share of a meta-batch."""
        return Task(*(tensor[part::parts] for tensor in self))


class TaskDistribution(Protocol):
    """p(T): anything that samples tasks as a pure function of a generator."""

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task: ...

    def to(self, device: torch.device | str) -> Self: ...


def seeded(*seed: int) -> torch.Generator:
    """A CPU generator whose state depends on all the integers given, such as (seed, iteration).

    Every episode of training and evaluation comes from ``sample(n, seeded(seed, i))``. There is no state to carry:
    the i-th meta-batch is the same in any process, on any number of workers, and after a resume.
    """
    # SeedSequence pads with zeros and splits large integers in two: the count and fixed halves keep (1,) and (1, 0)
    # apart.
    words = [len(seed), *(half for part in seed for half in divmod(operator.index(part) % 2**64, 2**32))]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


_NO_GROUPS = '{}=True needs classes named "group/class", such as "Greek/character03".'


def group_of(name: int | str) -> str:
    """The group of a class: "Greek" for "Greek/character03", and nothing for a name without one."""
    return str(name).rpartition("/")[0]


class ClassificationTasks:
    """N-way K-shot episodes from labelled examples.

    An episode draws ``ways`` classes, then ``shots + queries`` distinct examples of each, and numbers the classes
    0 … ways-1 in the order drawn, so a label means nothing outside its episode (Vinyals et al., 2016, section 4.1).
    Within an episode, rows are in class order: [class 0's shots, class 1's shots, …], and the queries alike.

    The data stay in one tensor; an episode is an index into it. Splits and copies share that tensor. Such an index is a
    *code*, 4 × row + quarter turns, so that an image and its rotations are examples like any others.

    Args:
        x: examples [n, *input], or a dataset of (example, label) pairs such as ``TensorDataset`` or ``ImageFolder``,
            whose names of classes are kept. ``uint8`` means image bytes: episodes hold them as floats in [0, 1]. An
            array of numpy's doubles becomes single precision, as networks are.
        y: labels [n], integers or strings. Leave out when ``x`` is a dataset.
        ways: N, classes in an episode.
        shots: K, support examples of each class.
        queries: query examples of each class.
        rotations: turn each class of an episode by its own random multiple of 90 degrees, as the MAML code does
            for Omniglot. Examples must be square images [channels, size, size].
        within_groups: draw the classes of an episode from one group, all groups with enough classes being equally
            likely. A class named "Greek/character03" is of the group "Greek".
        augment: maps one image to a random variant of it, such as a transform of ``torchvision.transforms.v2``;
            every example of an episode passes through it.

    Raises:
        TypeError: labels that are not integers or strings, examples that are not numbers of one shape.
        ValueError: sizes that do not fit the data; the message names the value and the fix.

    Derived in: Tasks and episodes, :eq:`eq-episode`.
    """

    def __init__(
        self,
        x: Tensor | np.ndarray | Dataset,
        y: Tensor | np.ndarray | Sequence[int] | Sequence[str] | None = None,
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        rotations: bool = False,
        within_groups: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if isinstance(x, DataLoader):
            raise TypeError("x is a DataLoader, which gives batches; give its dataset: loader.dataset.")
        if isinstance(x, str | Path):
            raise TypeError(f"x={str(x)!r} is a path; for a folder of images give torchvision's ImageFolder(path).")
        if isinstance(x, Dataset):
            if y is not None:
                raise ValueError("y was given twice: a dataset already holds its labels, so leave y out.")
            x, y = _tensors_of(x)
        elif y is None:
            raise ValueError("y is missing: give labels [n], or a dataset of (example, label) pairs as x.")
        self.x = _examples(x)
        if self.x.is_floating_point() and not self.x.isfinite().all():
            first = int(self.x.flatten(1).isfinite().all(1).logical_not().nonzero()[0])
            raise ValueError(f"example {first} holds a number that is not finite; mend it or leave it out.")
        names, labels = _class_labels(y)
        if len(labels) != len(self.x):
            raise ValueError(f"x has {len(self.x)} examples but y has {len(labels)} labels; they must be equally many.")
        self.classes: list[int] | list[str] = names
        self._counts = torch.bincount(labels, minlength=len(names))
        # Codes by class, [classes, largest class]; short classes are padded and masked when sampling.
        self._codes = torch.zeros(len(names), int(self._counts.max()), dtype=torch.int64)
        self._codes[self._in_class()] = 4 * torch.argsort(labels, stable=True)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.rotations, self.within_groups, self.augment = rotations, within_groups, augment
        self._check()

    def _in_class(self) -> Tensor:
        return torch.arange(self._codes.shape[1]) < self._counts[:, None]

    def _check(self) -> None:
        _check_positive(ways=self.ways, shots=self.shots, queries=self.queries)
        if self.ways > len(self.classes):
            raise ValueError(f"ways={self.ways}, but there are only {len(self.classes)} classes; lower ways.")
        smallest = int(self._counts.argmin())
        if self.shots + self.queries > self._counts[smallest]:
            raise ValueError(
                f"shots + queries = {self.shots} + {self.queries} = {self.shots + self.queries}, but class "
                f"{self.classes[smallest]!r} has only {self._counts[smallest]} examples; lower shots or queries, or "
                "leave that class out."
            )
        if self.rotations:
            self._check_square("rotations=True")
        self._group_of = self._enough_in_group() if self.within_groups else None

    def _check_square(self, what: str) -> None:
        if self.x.dim() < 4 or self.x.shape[-1] != self.x.shape[-2]:
            raise ValueError(
                f"{what} needs square images [n, channels, size, size], not {list(self.x.shape)}; "
                "crop them to squares or leave rotations out."
            )

    def _enough_in_group(self) -> Tensor:
        """For each class the number of its group among those with at least ``ways`` classes, else -1."""
        names = [group_of(name) for name in self.classes]
        sizes = Counter(names)
        if "" in sizes:
            raise ValueError(_NO_GROUPS.format("within_groups"))
        large = sorted(name for name, size in sizes.items() if size >= self.ways)
        if not large:
            largest, size = sizes.most_common(1)[0]
            raise ValueError(f"ways={self.ways}, but the largest group, {largest!r}, has {size} classes; lower ways.")
        return torch.tensor([large.index(name) if name in large else -1 for name in names])

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def class_sizes(self) -> dict[int, int] | dict[str, int]:
        """How many examples each class has."""
        return dict(zip(self.classes, self._counts.tolist(), strict=True))

    def codes(self) -> Tensor:
        """The code of every example here, class after class, for :meth:`examples`."""
        return self._codes[self._in_class()]

    def __repr__(self) -> str:
        return (
            f"ClassificationTasks({len(self)} examples of shape {list(self.x.shape[1:])} in {len(self.classes)} "
            f"classes; ways={self.ways}, shots={self.shots}, queries={self.queries}, rotations={self.rotations})"
        )

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` episodes; equal generators give equal episodes."""
        return self.read(self.draw(n_tasks, generator), generator)

    def read(self, codes: Tensor, generator: torch.Generator) -> Task:
        """The episodes that codes [tasks, ways, shots + queries] stand for, augmented if so asked."""
        episodes = self.episodes(codes)
        # Support and query images are read apart, so that none is copied twice.
        support_x, query_x = (
            self.augmented(self.examples(half), generator) for half in (episodes.support_x, episodes.query_x)
        )
        return episodes._replace(support_x=support_x, query_x=query_x).to(self.x.device)

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """The examples of ``n_tasks`` episodes as codes [tasks, ways, shots + queries], for :meth:`examples`."""
        return self.draw_examples(self.draw_classes(n_tasks, generator), generator)

    def draw_classes(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """The classes of ``n_tasks`` episodes, as positions in ``classes``: [tasks, ways]."""
        _check_generator(generator)
        # The ranks of random numbers are a draw without replacement, for all tasks at once.
        keys = torch.rand(n_tasks, len(self.classes), generator=generator)
        if self._group_of is not None:
            group = torch.randint(int(self._group_of.max()) + 1, (n_tasks, 1), generator=generator)
            keys.masked_fill_(self._group_of != group, -1.0)
        return keys.topk(self.ways).indices

    def draw_examples(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Codes [tasks, ways, shots + queries] of distinct examples of the classes [tasks, ways]."""
        keys = torch.rand(*classes.shape, self._codes.shape[1], generator=generator)
        keys.masked_fill_(~self._in_class()[classes], -1.0)
        codes = self._codes[classes[..., None], keys.topk(self.shots + self.queries).indices]
        if self.rotations:
            turns = torch.randint(4, classes.shape, generator=generator)
            codes = codes - codes % 4 + (codes + turns[..., None]) % 4
        return codes

    def examples(self, codes: Tensor) -> Tensor:
        """The examples that codes of any shape stand for: [*codes, *input], floats in [0, 1] if they are images."""
        # index_select copies whole rows: ten times as fast as x[rows] where x holds bytes.
        rows = (codes // 4).flatten().to(self.x.device)
        x = self.x.index_select(0, rows).view(*codes.shape, *self.x.shape[1:])
        if x.dtype == torch.uint8:
            x = x.float().div_(255)
        turns = codes % 4
        if turns.any():
            for k in (1, 2, 3):
                turned = (turns == k).to(x.device)
                x[turned] = x[turned].rot90(k, (-2, -1))
        return x

    def augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images [..., channels, height, width], each passed through ``augment`` if there is one."""
        if self.augment is None:
            return x
        # torchvision draws from the global stream: seeded here and given back untouched.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            return torch.stack([self.augment(image) for image in x.flatten(0, -4)]).view(*x.shape)

    def episodes(self, x: Tensor) -> Task:
        """Codes [tasks, ways, shots + queries], or anything that was computed from them for each example, as tasks."""
        labels = torch.arange(self.ways, device=x.device)[None, :, None].expand(x.shape[:3])
        support, query = slice(None, self.shots), slice(self.shots, None)
        return Task(*(part[:, :, half].flatten(1, 2) for half in (support, query) for part in (x, labels)))

    def replace(self, **settings: int | bool | Callable[[Tensor], Tensor] | None) -> Self:
        """A copy over the same data with other ``ways``, ``shots``, ``queries``, ``rotations`` and so on."""
        unknown = set(settings) - set(_SETTINGS)
        if unknown:
            raise TypeError(f"replace() does not know {sorted(unknown)}; it takes {', '.join(_SETTINGS)}.")
        other = copy.copy(self)
        other.__dict__.update(settings)
        other._check()
        return other

    def select_classes(self, classes: Iterable[int | str]) -> Self:
        """Only the classes named, over the same data."""
        position = {name: i for i, name in enumerate(self.classes)}
        wanted = list(classes)
        missing = [name for name in wanted if name not in position]
        if missing:
            examples = ", ".join(map(repr, self.classes[:3]))
            raise ValueError(
                f"there is no class {missing[0]!r} among the {len(position)} classes here, such as {examples}."
            )
        if len(set(wanted)) < len(wanted):
            raise ValueError("a class is named twice; name each class once.")
        index = torch.tensor([position[name] for name in wanted], dtype=torch.int64)
        other = copy.copy(self)
        other.classes, other._codes, other._counts = wanted, self._codes[index], self._counts[index]
        other._check()
        return other

    def with_rotated_classes(self) -> Self:
        """Four times the classes: each also turned by 90, 180 and 270 degrees, as classes of their own.

        So Matching Networks and Prototypical Networks enlarge Omniglot. "Greek/character03" is joined by
        "Greek@90/character03": a turned alphabet is a group of its own.
        """
        self._check_square("with_rotated_classes()")
        other = copy.copy(self)
        other.classes = [_turned(name, 90 * k) for k in range(4) for name in self.classes]
        other._codes = torch.cat([self._codes + k for k in range(4)])
        other._counts = self._counts.repeat(4)
        other._check()
        return other

    def split_classes(
        self, fractions: Sequence[float], seed: int = 0, *, whole_groups: bool = False
    ) -> tuple[Self, ...]:
        """Disjoint random sets of classes, one for each fraction, such as (0.64, 0.16, 0.20).

        Splitting by class, not by example, is what makes the test a test of learning new classes. With
        ``whole_groups`` the fractions are of groups, such as alphabets, patients or machines, and no group is cut.
        """
        if min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions must be positive and sum to at most 1, not {tuple(fractions)}.")
        unit = [group_of(name) for name in self.classes] if whole_groups else self.classes
        if whole_groups and "" in unit:
            raise ValueError(_NO_GROUPS.format("whole_groups"))
        units = list(dict.fromkeys(unit))
        order = torch.randperm(len(units), generator=seeded(seed)).tolist()
        edges = [round(float(edge) * len(order)) for edge in np.cumsum([0.0, *fractions])]
        parts = []
        for fraction, (start, stop) in zip(fractions, pairwise(edges), strict=True):
            chosen = {units[i] for i in order[start:stop]}
            classes = [name for name, of in zip(self.classes, unit, strict=True) if of in chosen]
            if len(classes) < self.ways:
                raise ValueError(
                    f"the fraction {fraction} of {len(order)} {'groups' if whole_groups else 'classes'} holds "
                    f"{len(classes)} classes, fewer than ways={self.ways}; enlarge the fraction or lower ways."
                )
            parts.append(self.select_classes(classes))
        return tuple(parts)

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its examples on ``device``. Sampling stays on the CPU: episodes do not change."""
        other = copy.copy(self)
        other.x = self.x.to(device)
        return other


class SupervisedTasks:
    """Plain supervised learning in the form of tasks: an empty support set, and a minibatch of examples as queries.

    The labels are the same in every task: the position of a class in ``tasks.classes``. So one training loop serves
    meta-learning and pre-training.

    Args:
        tasks: where the examples come from; its ways, shots and queries do not matter, its ``augment`` does.
        batch_size: examples in a minibatch, drawn with replacement.

    Derived in: A baseline worth beating, :eq:`eq-pretraining`.
    """

    def __init__(self, tasks: ClassificationTasks, *, batch_size: int = 128) -> None:
        _check_positive(batch_size=batch_size)
        self.tasks, self.batch_size = tasks, batch_size
        self._codes, self._labels = tasks.codes(), torch.arange(len(tasks.classes)).repeat_interleave(tasks._counts)

    def __repr__(self) -> str:
        return f"SupervisedTasks({len(self._codes)} examples; batch_size={self.batch_size})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` minibatches; equal generators give equal minibatches."""
        _check_generator(generator)
        drawn = torch.randint(len(self._codes), (n_tasks, self.batch_size), generator=generator)
        x, y = self.tasks.augmented(self.tasks.examples(self._codes[drawn]), generator), self._labels[drawn]
        return Task(x[:, :0], y[:, :0].to(x.device), x, y.to(x.device))

    def to(self, device: torch.device | str) -> Self:
        """The same minibatches, delivered on ``device``."""
        other = copy.copy(self)
        other.tasks = self.tasks.to(device)
        return other


class RegressionTasks:
    """Few-shot regression: each task is a function drawn at random and seen at random inputs.

    Args:
        draw_functions: maps inputs [tasks, n, 1] and a generator to outputs [tasks, n, 1], a new function per task.
        low, high: inputs are uniform on [low, high].
        shots: K, support points of a task.
        queries: query points of a task.

    Derived in: Learning to learn, :eq:`eq-sinusoid`.
    """

    def __init__(
        self,
        draw_functions: Callable[[Tensor, torch.Generator], Tensor],
        *,
        low: float,
        high: float,
        shots: int = 10,
        queries: int = 10,
    ) -> None:
        if low >= high:
            raise ValueError(f"low={low} must be less than high={high}.")
        self.draw_functions, self.low, self.high, self.shots, self.queries = draw_functions, low, high, shots, queries
        self._device: torch.device | str = "cpu"
        self._check()

    def _check(self) -> None:
        _check_positive(shots=self.shots, queries=self.queries)

    def __repr__(self) -> str:
        return f"RegressionTasks(x in [{self.low}, {self.high}]; shots={self.shots}, queries={self.queries})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` functions and their points; equal generators give equal tasks."""
        _check_generator(generator)
        unit = torch.rand(n_tasks, self.shots + self.queries, 1, generator=generator)
        x = self.low + (self.high - self.low) * unit
        y = self.draw_functions(x, generator)
        return Task(x[:, : self.shots], y[:, : self.shots], x[:, self.shots :], y[:, self.shots :]).to(self._device)

    def replace(self, *, shots: int | None = None, queries: int | None = None) -> Self:
        """The same functions with other numbers of ``shots`` or ``queries``."""
        other = copy.copy(self)
        other.shots = self.shots if shots is None else shots
        other.queries = self.queries if queries is None else queries
        other._check()
        return other

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its tasks delivered on ``device``."""
        other = copy.copy(self)
        other._device = device
        return other


_SETTINGS = ("ways", "shots", "queries", "rotations", "within_groups", "augment")


def _turned(name: int | str, degrees: int) -> int | str:
    if not degrees:
        return name
    group, slash, rest = str(name).rpartition("/")
    return f"{group}@{degrees}{slash}{rest}" if slash else f"{rest}@{degrees}"


def _check_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be at least 1, and whole, not {value!r}.")


def _check_generator(generator: torch.Generator) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"sample() needs a torch.Generator, not {generator!r}; write seeded(0).")


def _tensors_of(dataset: Dataset) -> tuple[Tensor, list]:
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


def _examples(x: Tensor | np.ndarray | Sequence) -> Tensor:
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


def _class_labels(y: Tensor | np.ndarray | Sequence) -> tuple[list, Tensor]:
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
