"""What is told of each iteration of meta-training: a bar, a file, TensorBoard, or anything of your own."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from mlcore.evaluation import Score
from mlcore.files import write_atomically
from mlcore.learner import Learner


class Moment(NamedTuple):
    """One iteration of meta-training, after its update."""

    iteration: int  # the first is 1
    iterations: int
    loss: float
    scores: dict[str, float]  # of the meta-batch, by metric, averaged over its tasks
    validation: Score | None  # where there was one after this iteration
    learner: Learner


Callback = Callable[[Moment], Any]
"""Called after every iteration; if it has a method ``close``, that is called in the end."""


class ProgressBar:
    """A bar with loss, main metric and time left."""

    def __init__(self, iterations: int, *, done: int = 0) -> None:
        self.bar = tqdm(total=iterations, initial=done, desc="meta-train")

    def __call__(self, moment: Moment) -> None:
        if moment.iteration % 10 == 0 or moment.iteration == moment.iterations:
            name, value = next(iter(moment.scores.items()))
            self.bar.set_postfix({"loss": f"{moment.loss:.4f}", name: f"{value:.3f}"}, refresh=False)
        self.bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


class CSVLog:
    """A line for each iteration in a CSV file.

    A run that goes on keeps the lines of the iterations before; those that it repeats after a crash, it writes again.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file: TextIO | None = None

    def __call__(self, moment: Moment) -> None:
        if self.file is None:
            self.file = self._opened(moment)
        score = moment.validation
        validation = ["", ""] if score is None else [score.mean, score.ci95]
        csv.writer(self.file).writerow([moment.iteration, moment.loss, *moment.scores.values(), *validation])
        self.file.flush()

    def _opened(self, first: Moment) -> TextIO:
        """The file with what was written before this iteration."""
        rows = [["iteration", "loss", *first.scores, "validation", "validation_ci95"]]
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                # A crash may have cut the last line short.
                rows += [row for row in csv.reader(file) if len(row) == len(rows[0]) and row[0].isdigit()]
        kept = [row for row in rows if not row[0].isdigit() or int(row[0]) < first.iteration]

        def write(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(kept)

        write_atomically(self.path, write)
        return self.path.open("a", newline="", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


class TensorBoard:
    """Loss, metrics and validation scores for TensorBoard (extra ``tensorboard``)."""

    def __init__(self, folder: Path | str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise LookupError("TensorBoard is not installed; pip install 'mlcore[tensorboard]'.") from error
        self.writer = SummaryWriter(str(folder))

    def __call__(self, moment: Moment) -> None:
        self.writer.add_scalar("meta-train/loss", moment.loss, moment.iteration)
        for name, value in moment.scores.items():
            self.writer.add_scalar(f"meta-train/{name}", value, moment.iteration)
        if moment.validation is not None:
            self.writer.add_scalar(f"validation/{moment.validation.metric}", moment.validation.mean, moment.iteration)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
