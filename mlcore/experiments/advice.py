"""What to start with, from the records that can carry it: one table, printed wherever the book gives such advice."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlcore.experiments import ledger
from mlcore.experiments.report import Line, lines


@dataclass(frozen=True)
class Advice:
    """One line of the table. ``measured`` pairs a label with a recipe and one of its settings."""

    situation: str
    start: str
    on: str
    measured: tuple[tuple[str, str, str], ...]
    caution: str
    chapter: str


_ONE, _FIVE, _TWENTY = "5-way 1-shot", "5-way 5-shot", "20-way 1-shot"
_STEP, _STEPS = "5-shot, 1 step", "5-shot, 10 steps"

ADVICE = {
    "nothing": Advice(
        "No earlier classes to learn from",
        "Nearest neighbour in the best fixed features you can name. There is nothing to meta-train on.",
        "5-way 1-shot, pixels",
        (("Omniglot", "pixels-omniglot", _ONE), ("CIFAR-FS", "pixels-cifar", _ONE)),
        "Pixels are the floor. A spectrum or word counts can be far above it.",
        "practice/your_own_data",
    ),
    "simple": Advice(
        "Hundreds of classes of simple images",
        "A metric learner. Keep a classifier with a new head as its rival.",
        "Omniglot, 20-way 1-shot",
        (
            ("Prototypical Network", "protonet-omniglot-1s", _TWENTY),
            ("Matching Network, query not normalised", "matching-length-omniglot-1s", _TWENTY),
            ("classifier, new head", "baseline-omniglot", _TWENTY),
        ),
        "The classifier's published number is of 2016.",
        "metric/learning_a_metric",
    ),
    "natural": Advice(
        "Tens of classes of natural images",
        "A classifier of the classes you have, then a cosine head. Ridge regression in episodes may add points.",
        "CIFAR-FS, 5-way 1-shot",
        (
            ("ridge, in 20-way episodes", "ridge-released-cifar", _ONE),
            ("cosine head", "baselinepp-cifar", _ONE),
            ("centroids", "simpleshot-cifar", _ONE),
            ("Prototypical Network, distances over features", "protonet-scaled-cifar-1s", _ONE),
        ),
        "One seed each. Ridge saw five to six times as many images, and reads the features of two blocks.",
        "foundations/baselines",
    ),
    "pretrained-1": Advice(
        "A pre-trained network, one example a class",
        "A new head. More moves little.",
        "FC100, 5-way 1-shot",
        (
            ("head", "fc100-tune-head-1s", _ONE),
            ("everything fine-tuned in the task", "fc100-tune-all-1s", _ONE),
            ("scales and shifts, meta-learned", "fc100-ss-1s", _ONE),
        ),
        "The published meta-learned number is by other statistics at test, and a larger network.",
        "transfer/transfer_then_meta_transfer",
    ),
    "pretrained-5": Advice(
        "A pre-trained network, five examples a class",
        "Fine-tune in the task: everything, or scales and shifts.",
        "FC100, 5-way 5-shot",
        (
            ("everything", "fc100-tune-all-5s", _FIVE),
            ("scales and shifts", "fc100-tune-ss-5s", _FIVE),
            ("head, 100 steps", "pretrain-fc100", _FIVE),
            ("head, 20 steps", "fc100-tune-head-5s", _FIVE),
            ("scales and shifts, meta-learned", "fc100-ss-5s", _FIVE),
        ),
        "The rate of fine-tuning has to be chosen, on validation classes.",
        "transfer/transfer_then_meta_transfer",
    ),
    "shots": Advice(
        "Dozens of examples a class",
        "Keep the features and fit a head. At 400 we could not tell it from fine-tuning everything.",
        "CIFAR-FS, 5-way",
        tuple(
            (f"{name}, {k} shots", recipe, f"5-way {k}-shot")
            for k in (20, 100, 400)
            for name, recipe in (("head", "shots-head"), ("everything fine-tuned", "shots-fine-tune-many"))
        ),
        "One seed; fine-tuning has 60 to 10 tasks, and a rate that was chosen at 100 shots.",
        "transfer/when_meta_learning_pays",
    ),
    "vary": Advice(
        "The shots will vary",
        "Train with several shots rather than one; look at both ends.",
        "CIFAR-FS, Prototypical Network",
        tuple(
            (f"trained at {trained}, tested at {k}:", f"protonet-cifar-{trained}s", f"5-way {k}-shot")
            for trained in (5, 1)
            for k in (1, 5)
        ),
        "On Omniglot, training at one shot is no worse.",
        "metric/learning_a_metric",
    ),
    "ways": Advice(
        "Many ways in a task",
        "A metric learner: nothing in it grows with the ways, and it trains in minutes.",
        "Omniglot, 20-way 1-shot",
        (
            ("Prototypical Network", "protonet-omniglot-1s", _TWENTY),
            ("ANIL, tied rows", "anil-tied-omniglot-20w1s", "transductive"),
            ("MAML, short", "maml-short-omniglot-20w1s", "transductive"),
        ),
        "As published, the three are level, though by other statistics. Ours differ by what was spent on them.",
        "optimization/the_family",
    ),
    "alone": Advice(
        "Queries come one at a time",
        "Statistics of the support set or running ones, in training as in use.",
        "MAML on Omniglot, 5-way 1-shot",
        (
            ("all queries together", "maml-omniglot-5w1s", "transductive"),
            ("one at a time", "maml-omniglot-5w1s", "support + one query"),
        ),
        "One network, trained on the first and asked for the second: the cost of a change of statistics.",
        "optimization/maml_omniglot",
    ),
    "collect": Advice(
        "More data to collect",
        "More classes. Whether from many groups or few, our runs do not decide.",
        "Omniglot, 5-way 1-shot",
        (
            ("10 classes", "classes-10", _ONE),
            ("100 classes", "classes-100", _ONE),
            ("100 classes from few alphabets", "classes-100-whole", _ONE),
            ("792 classes", "classes-792", _ONE),
        ),
        "One draw of the classes each, and one length of training for all.",
        "transfer/when_meta_learning_pays",
    ),
    "regression": Advice(
        "Regression: the answer is a function",
        "Adapt a few context inputs; MAML is the rival.",
        "sinusoids, squared error",
        tuple(
            (f"{name}, {words}", recipe, setting)
            for words, setting in (("1 step", _STEP), ("10 steps", _STEPS))
            for name, recipe in (
                ("CAVIA", "cavia-sinusoid"),
                ("MAML", "maml-sinusoid"),
                ("pre-training", "pretrain-sinusoid"),
            )
        ),
        "Tasks that differ in two hidden numbers suit a context of a few numbers.",
        "optimization/feature_reuse",
    ),
}


def table(keys: Iterable[str] = ADVICE, *, folder: str = "..") -> str:
    """The advice as a Markdown table, ours first and the checked published number in brackets.

    Args:
        keys: which lines of ``ADVICE``, in which order.
        folder: the way from the page to the book's folder, for links to chapters.
    """
    found = {(line.row.recipe, line.row.setting): line for line in lines(ledger.rows())}
    head = ["| your situation | start with | measured (published) | caution | chapter |", "|---|---|---|---|---|"]
    for key in keys:
        one = ADVICE[key]
        numbers = "; ".join(f"{label} {_beside(found.get((name, at)))}" for label, name, at in one.measured)
        chapter = f"{{doc}}`{folder}/{one.chapter}`"
        head.append(f"| {one.situation} | {one.start} | *{one.on}*: {numbers} | {one.caution} | {chapter} |")
    return "\n".join(head)


def _beside(line: Line | None) -> str:
    """Our number, and in brackets the published one where it was checked."""
    if line is None:
        return "not run yet"
    checked = line.row.published is not None and line.row.verified != "memory"
    text = f"**{ledger.ours(line.row)}**" + (f" ({ledger.theirs(line.row)})" if checked else "")
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
