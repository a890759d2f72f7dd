"""N-way K-shot episodes from labelled examples."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlcore.objective import Objective, classification
from mlcore.task import Examples, Task, Tasks, rows, seed_global_stream, seeded
from mlcore.tasks.class_names import large_groups, parted, positions, turned
from mlcore.tasks.labelled import class_labels, examples_of, first_not_finite, scaled, tensors_of
from mlcore.tasks.lazy import OnDisk
from mlcore.tasks.sizes import Size, check_generator, check_positive, most, one, settled, vary


class ClassificationTasks(Tasks):
    """N-way K-shot episodes from labelled examples.

    An episode draws ``ways`` classes, then ``shots + queries`` distinct examples of each, and numbers the classes
    0 … ways-1 in the order drawn, so a label means nothing outside its episode (Vinyals et al., 2016, section 4.1).
    Targets are one-hot rows. The rows of an episode are shuffled, so that their order says nothing of their classes.

    The data stay in one tensor; an episode is an index into it. Splits and copies share that tensor. Such an index is a
    *code*, 4 × row + quarter turns, so that an image and its rotations are examples like any others.

    Args:
        x: examples [n, *input], or a dataset of (example, label) pairs such as ``TensorDataset`` or ``ImageFolder``,
            whose names of classes are kept, through ``Subset`` and ``ConcatDataset`` too. ``uint8`` means image bytes:
            episodes hold them as floats in [0, 1]. An array of numpy's doubles becomes single precision, as networks
            are.
        y: labels [n], integers or strings. Leave out when ``x`` is a dataset.
        ways: N, classes in an episode.
        shots: K, support examples of each class.
        queries: query examples of each class. Each of these sizes may be a range, such as ``shots=(1, 5)``, of which
            every batch draws one, and in evaluation every task.
        rotations: turn each class of an episode by its own random multiple of 90 degrees, as the MAML code does
            for Omniglot. Examples must be square images [channels, size, size].
        within_groups: draw the classes of an episode from one group, all groups with enough classes being equally
            likely. A class named "Greek/character03" is of the group "Greek".
        augment: maps one image to a random variant of it, such as a transform of ``torchvision.transforms.v2``;
            every example of an episode passes through it.
        drop_small: leave out the classes that have fewer than ``shots + queries`` examples, instead of refusing them.
        lazy: leave the examples of a dataset where they are, and read an item when an episode asks for it: for data
            that do not fit into memory. ``y`` may then be given as well, where the dataset has no list of labels.
        workers: with ``lazy``, read in that many threads.

    Raises:
        TypeError: labels that are not integers or strings, examples that are not numbers of one shape.
        ValueError: sizes that do not fit the data; the message names the value and the fix.

    Derived in: Tasks and episodes, :eq:`eq-episode`.
    """

    objective: Objective = classification
    fixed_inputs = True
    """Whether an example is the same in every task that it is in, as long as nothing augments it."""

    def __init__(
        self,
        x: Tensor | np.ndarray | Dataset,
        y: Tensor | np.ndarray | Sequence[int] | Sequence[str] | None = None,
        *,
        ways: Size = 5,
        shots: Size = 1,
        queries: Size = 15,
        rotations: bool = False,
        within_groups: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
        drop_small: bool = False,
        lazy: bool = False,
        workers: int | None = None,
    ) -> None:
        if isinstance(x, DataLoader):
            raise TypeError("x is a DataLoader, which gives batches; give its dataset: loader.dataset.")
        if isinstance(x, str | Path):
            raise TypeError(f"x={str(x)!r} is a path; for a folder of images give torchvision's ImageFolder(path).")
        if workers is not None and not lazy:
            raise ValueError(f"workers={workers} read a dataset that stays on disk; add lazy=True, or leave it out.")
        self.x: Any
        if lazy:
            if not isinstance(x, Dataset):
                raise TypeError(f"lazy=True reads a dataset when asked; x must be one, not {type(x).__name__}.")
            self.x = OnDisk(x, y, workers)
            labelled = self.x.labels
        else:
            if isinstance(x, Dataset):
                if y is not None:
                    raise ValueError("y was given twice: a dataset already holds its labels, so leave y out.")
                x, labelled = tensors_of(x)
            elif y is None:
                raise ValueError("y is missing: give labels [n], or a dataset of (example, label) pairs as x.")
            else:
                labelled = y
            self.x = examples_of(x)
            if (first := first_not_finite(self.x)) is not None:
                raise ValueError(f"example {first} holds a number that is not finite; mend it or leave it out.")
        names, labels = class_labels(labelled)
        if len(labels) != len(self.x):
            raise ValueError(f"x has {len(self.x)} examples but y has {len(labels)} labels; they must be equally many.")
        self.classes: list[Any] = names
        self._counts = torch.bincount(labels, minlength=len(names))
        # Codes by class, [classes, largest class]; short classes are padded and masked when sampling.
        self._codes = torch.zeros(len(names), int(self._counts.max()), dtype=torch.int64)
        self._codes[self._in_class()] = 4 * torch.argsort(labels, stable=True)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.rotations, self.within_groups, self.augment = rotations, within_groups, augment
        self.drop_small = drop_small
        self._check()

    def _in_class(self) -> Tensor:
        return torch.arange(self._codes.shape[1]) < self._counts[:, None]

    def _check(self) -> None:
        check_positive(ways=self.ways, shots=self.shots, queries=self.queries)
        ways, shots, queries = most(self.ways), most(self.shots), most(self.queries)
        small = self._counts < shots + queries
        few = int(small.sum())
        dropped = f", without the {few} that are too small" if self.drop_small and few else ""
        if dropped:
            self.classes = [name for name, is_small in zip(self.classes, small.tolist(), strict=True) if not is_small]
            self._codes, self._counts = self._codes[~small], self._counts[~small]
        if ways > len(self.classes):
            raise ValueError(f"ways={ways}, but there are only {len(self.classes)} classes{dropped}; lower ways.")
        smallest = int(self._counts.argmin())
        if shots + queries > self._counts[smallest]:
            raise ValueError(
                f"shots + queries = {shots} + {queries} = {shots + queries}, but class {self.classes[smallest]!r} has "
                f"only {self._counts[smallest]} examples; lower shots or queries, or leave out {few} small "
                f"class{'es' * (few > 1)}: drop_small=True."
            )
        if self.rotations:
            self._check_square("rotations=True")
        self._group_of = large_groups(self.classes, ways) if self.within_groups else None

    def _check_square(self, what: str) -> None:
        if self.x.dim() < 4 or self.x.shape[-1] != self.x.shape[-2]:
            raise ValueError(
                f"{what} needs square images [n, channels, size, size], not {list(self.x.shape)}; "
                "crop them to squares or leave rotations out."
            )

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def one_shape(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no size is a range."""
        return not vary(self)

    @property
    def class_sizes(self) -> dict[Any, int]:
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
        """Draw ``n_tasks`` episodes; equal generators give equal episodes, with the same examples in the same order."""
        tasks = settled(self, generator)
        return tasks.read(tasks.draw(n_tasks, generator), generator)

    def read(self, codes: Tensor, generator: torch.Generator) -> Task:
        """The episodes that codes [tasks, ways, shots + queries] stand for, augmented if so asked."""
        # Another stream than the one that draws: what is drawn does not depend on how it is shuffled.
        other = torch.Generator().set_state(generator.get_state())
        other = seeded(int(torch.randint(2**62, (), generator=other)))
        shots = one(self.shots)
        # Support and query images are read apart, so that none is copied twice.
        halves = (_shuffled(half, other) for half in (codes[:, :, :shots], codes[:, :, shots:]))
        return Task(
            *(Examples(self.augmented(self.examples(half.x), generator), half.y.to(self.x.device)) for half in halves)
        )

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """The examples of ``n_tasks`` episodes as codes [tasks, ways, shots + queries], for :meth:`examples`."""
        return self.draw_examples(self.draw_classes(n_tasks, generator), generator)

    def draw_classes(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """The classes of ``n_tasks`` episodes, as positions in ``classes``: [tasks, ways]."""
        check_generator(generator)
        # The ranks of random numbers are a draw without replacement, for all tasks at once.
        keys = torch.rand(n_tasks, len(self.classes), generator=generator)
        if self._group_of is not None:
            group = torch.randint(int(self._group_of.max()) + 1, (n_tasks, 1), generator=generator)
            keys.masked_fill_(self._group_of != group, -1.0)
        return keys.topk(one(self.ways)).indices

    def draw_examples(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Codes [tasks, ways, shots + queries] of distinct examples of the classes [tasks, ways]."""
        keys = torch.rand(*classes.shape, self._codes.shape[1], generator=generator)
        keys.masked_fill_(torch.arange(keys.shape[-1]) >= self._counts[classes][..., None], -1.0)
        codes = self._codes[classes[..., None], keys.topk(one(self.shots) + one(self.queries)).indices]
        if self.rotations:
            turns = torch.randint(4, classes.shape, generator=generator)
            codes = codes - codes % 4 + (codes + turns[..., None]) % 4
        return codes

    def examples(self, codes: Tensor) -> Tensor:
        """The examples that codes of any shape stand for: [*codes, *input], floats in [0, 1] if they are images."""
        # index_select copies whole rows: ten times as fast as x[rows] where x holds bytes.
        rows = (codes // 4).flatten().to(self.x.device)
        x = self.x.index_select(0, rows).view(*codes.shape, *self.x.shape[1:])
        x = scaled(x)
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
            seed_global_stream(int(torch.randint(2**62, (), generator=generator)))
            return torch.stack([self.augment(image) for image in x.flatten(0, -4)]).view(*x.shape)

    def episodes(self, x: Tensor) -> Task:
        """Codes [tasks, ways, shots + queries], or anything that was computed from them for each example, as tasks."""
        ways, shots = one(self.ways), one(self.shots)
        labels = torch.arange(ways, device=x.device)[None, :, None].expand(x.shape[:3])
        halves = ((x[:, :, half], labels[:, :, half]) for half in (slice(None, shots), slice(shots, None)))
        return Task(*(Examples(z.flatten(1, 2), rows(y.flatten(1, 2), ways)) for z, y in halves))

    def replace(self, **settings: Any) -> Self:
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
        wanted = list(classes)
        index = positions(self.classes, wanted)
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
        other.classes = [turned(name, 90 * k) for k in range(4) for name in self.classes]
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
        parts = parted(self.classes, fractions, seed, whole_groups=whole_groups, ways=most(self.ways))
        return tuple(map(self.select_classes, parts))

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its examples on ``device``. Sampling stays on the CPU: episodes do not change."""
        other = copy.copy(self)
        other.x = self.x.to(device)
        return other


_SETTINGS = ("ways", "shots", "queries", "rotations", "within_groups", "augment", "drop_small")


def _shuffled(codes: Tensor, generator: torch.Generator) -> Examples:
    """The codes [tasks, ways, n] of each task in random order [tasks, ways · n], with one-hot rows of their classes."""
    tasks, ways, n = codes.shape
    order = torch.rand(tasks, ways * n, generator=generator).argsort(1)
    return Examples(codes.flatten(1).gather(1, order), torch.eye(ways)[order // n])
