"""The reproducibility report: which published numbers we meet, by how much we miss the others, and why.

``mlcore report`` and the book's report print what stands here, in the same order.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from statistics import fmean

from mlcore.experiments import ledger
from mlcore.experiments.ledger import Gap, Row, gaps, ours, share, theirs, with_interval

TITLES = {
    "checked": "Against published numbers that we could check, the largest shortfall first",
    "unverified": "Against numbers that we know from memory, which count nowhere",
    "ablations": "Wrong on purpose, which count nowhere",
    "others": "Without a published number",
}
CHECKED = {"text": "in the paper", "code": "in the authors' files", "secondary": "in a later text"}


@dataclass(frozen=True)
class Line:
    """One setting of a recipe with all its seeds.

    Attributes:
        row: the mean over seeds. Its interval is the mean of theirs, which is no narrower than that of the mean.
        seeds: in order.
        lowest, highest: of the seeds.
        gap: what ``data/gaps.yaml`` says, if anything.
    """

    row: Row
    seeds: tuple[int, ...]
    lowest: float
    highest: float
    gap: Gap | None = None

    @property
    def ablation(self) -> bool:
        """Wrong on purpose."""
        return self.gap is not None and self.gap.ablation


@dataclass(frozen=True)
class Trial:
    """A recipe without the suspected cause, and the share of the gap that it closes."""

    line: Line
    share: float

    @property
    def clear(self) -> bool:
        """Whether it closes half of the gap or more."""
        return self.share >= 0.5


def lines(table: list[Row]) -> list[Line]:
    """The rows of profile ``record``, one line for the seeds of a setting, the worst shortfall first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in table:
        if row.profile == "record":
            groups.setdefault((row.recipe, row.setting), []).append(row)
    known, found = gaps(), []
    for (recipe, setting), rows in groups.items():
        values = [row.ours for row in rows]
        mean = replace(rows[0], ours=fmean(values), ours_ci95=fmean(row.ours_ci95 for row in rows))
        gap = known.get(recipe)
        gap = gap if gap and gap.setting in (None, setting) else None
        found.append(Line(mean, tuple(row.seed for row in rows), min(values), max(values), gap))
    return sorted(found, key=lambda line: (line.row.percent is False, _rank(line.row)))


def _rank(row: Row) -> float:
    if row.lead is None:
        return 0.0
    return row.lead if math.isfinite(row.lead) else -math.inf


def sections(found: list[Line]) -> dict[str, list[Line]]:
    """``checked`` and ``unverified`` published numbers, ``ablations``, and the ``others``, each line in one."""
    parts: dict[str, list[Line]] = {"checked": [], "unverified": [], "ablations": [], "others": []}
    for line in found:
        if line.row.published is None:
            parts["others"].append(line)
        elif line.ablation:
            parts["ablations"].append(line)
        else:
            parts["unverified" if line.row.verified == "memory" else "checked"].append(line)
    return parts


def tested(line: Line, found: list[Line]) -> Trial | None:
    """The test of a line's cause: the recipe without it, at the same published number or the same setting."""
    if line.gap is None or not line.row.falls_short:
        return None
    others = [other for other in found if other.row.recipe in line.gap.by]
    same = [other for other in others if other.row.published_id == line.row.published_id]
    same = same or [other for other in others if other.row.setting == line.row.setting]
    if not same:
        return None
    assert line.row.lead  # it falls short
    gain = (same[0].row.ours - line.row.ours) * (1 if line.row.higher_is_better else -1)
    return Trial(same[0], gain / -line.row.lead)


def cause(line: Line, found: list[Line]) -> str:
    """Why a line falls short, with the numbers of the records it names."""
    if line.gap is None or not line.row.falls_short:
        return ""
    row = line.row
    ways = int((re.search(r"(\d+)w\d+s", row.recipe) or [0, 1])[1])
    values = {
        "diverged": f"{row.diverged}",
        "tasks": f"{row.tasks}",
        "ways": f"{ways}",
        "first class": f"{row.ours + 100 * row.diverged / row.tasks / ways:.1f} %",
    }
    # A setting's shots are in a recipe's name too: {tune-ss} is fc100-tune-ss-1s in the line of fc100-ss-1s.
    ends = re.fullmatch(r"(\w+-).*(-\ds)", row.recipe)
    for other in found:
        if other.row.setting == row.setting:
            name = other.row.recipe
            values[name] = f"{ours(other.row)} (`{name}`)"
            if ends and name.startswith(ends[1]) and name.endswith(ends[2]):
                values[name.removeprefix(ends[1]).removesuffix(ends[2])] = values[name]
    return line.gap.cause.format_map(values)


def status(line: Line, found: list[Line]) -> str:
    """In a few words, what the test of the cause came to; nothing where a line does not fall short."""
    if not line.row.falls_short:
        return ""
    if line.gap and line.gap.setting:
        return "computed"
    test = tested(line, found)
    if test is None:
        return "untested"
    share = "all" if test.share >= 1 else f"{100 * max(test.share, 0):.0f} %"
    together = f" ({line.gap.changes} changes)" if line.gap and line.gap.changes > 1 else ""
    return f"tested: {share} closed by {test.line.row.recipe}{together}"


def headline(found: list[Line]) -> str:
    """What a sceptic asks first: of the published accuracies that we could check, how many do we meet?"""
    checked = [line for line in sections(found)["checked"] if line.row.percent and line.row.higher_is_better]
    if not checked:
        return "No record is held against a published accuracy that was checked."
    count = Counter(line.row.verdict for line in checked)
    short = [line for line in checked if line.row.verdict == "short"]
    clear = [line.gap.changes for line in short if line.gap and (t := tested(line, found)) and t.clear]
    numbers: dict[str | None, set[str | None]] = {}
    for line in checked:
        numbers.setdefault(line.row.published_id, set()).add(line.row.verdict)
    met = sum(bool(verdicts & {"agrees", "better"}) for verdicts in numbers.values())
    several = sum(changes > 1 for changes in clear)
    return (
        f"{len(checked)} results are held against a published accuracy that we could check: {count['agrees']} agree "
        f"with it (the intervals overlap, or the two are within one point), {count['better']} are better, and "
        f"{count['short']} fall short. Of those that fall short, {len(clear)} have a tested cause: a second run "
        f"without it closes at least half of the gap"
        + (f"; for {several} of them that run changes several things at once. " if several else ". ")
        + f"By published number, the best of our recipes for each, {met} of {len(numbers)} are met."
    )


def summary(table: list[Row]) -> str:
    """All rows for a terminal: the headline, then one table after another, as the book's report has them."""
    found = lines(table)
    parts = [headline(found)] if found else []
    for name, shown in sections(found).items():
        if shown:
            parts += [TITLES[name], as_markdown(shown, found)]
    quick = [row for row in table if row.profile != "record"]
    if quick:
        parts += [*(["Quick runs, which count nowhere"] if found else []), ledger.as_markdown(quick)]
    return "\n\n".join(parts)


def as_markdown(shown: list[Line], found: list[Line]) -> str:
    """Lines as a table for a terminal; causes are cut to whether they were tested."""
    table = ["| recipe | setting | ours | published | gap | verdict | cause |", "|---|---|---|---|---|---|---|"]
    for line in shown:
        row = line.row
        cells = (
            row.recipe,
            row.setting,
            number(line),
            theirs(row),
            difference(row),
            row.verdict or "-",
            status(line, found),
        )
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)


def number(line: Line) -> str:
    """Ours, and of several seeds the range."""
    if len(line.seeds) == 1:
        return ours(line.row)
    low, high = (
        with_interval(value, None, line.row.percent).removesuffix(" %") for value in (line.lowest, line.highest)
    )
    return f"{ours(line.row)} ({low} to {high}, {len(line.seeds)} seeds)"


def difference(row: Row) -> str:
    """Ours minus published, in points or as an error."""
    if row.published is None:
        return "-"
    if not math.isfinite(row.ours):
        return "diverged"
    digits = 1 if row.percent else 2
    return f"{round(row.ours - row.published, digits) + 0.0:+.{digits}f}"


def for_page(shown: list[Line], found: list[Line]) -> str:
    """Lines as a table for a page: the cause in words, its test, and what would close what is left."""
    head = "| result | ours | published | gap | training tasks, of theirs | cause, and what would close it |"
    table = [head, "|---" * 6 + "|"]
    for line in shown:
        row = line.row
        about = f"`{row.recipe}`, {row.setting}"
        where = f" ({CHECKED[row.verified]})" if row.verified in CHECKED else ""
        gap = f'<span class="short">{difference(row)}\u00a0▼</span>' if row.verdict == "short" else difference(row)
        why, closes = _explained(line, found), _closes(line, found)
        why += f" **Would close it**: {closes}." * bool(closes)
        cells = (about, _unbroken(number(line)), _unbroken(theirs(row)) + where, gap, share(row), why)
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)


def _explained(line: Line, found: list[Line]) -> str:
    """The verdict of a line that is not short, the cause and its test of one that is."""
    if not line.row.falls_short:
        return line.row.verdict or "-"
    agrees = "agrees, within one point. " * (line.row.verdict == "agrees")
    test = tested(line, found)
    if test is None:
        word = "*computed*" if line.gap and line.gap.setting else "*untested*"
        return f"{agrees}{word}: {cause(line, found)}".removesuffix(": ")
    share = "all of the gap" if test.share >= 1 else f"{100 * max(test.share, 0):.0f} % of the gap"
    together = " together" if line.gap and line.gap.changes > 1 else ""
    test_row = f"`{test.line.row.recipe}` has {ours(test.line.row)} and closes {share}"
    return f"{agrees}**tested{together}**, {test_row}: {cause(line, found)}"


def _closes(line: Line, found: list[Line]) -> str:
    if line.gap is None or not line.row.falls_short:
        return ""
    recorded = {other.row.recipe for other in found}
    waiting = [f"`mlcore run {name} --profile record`" for name in line.gap.by if name not in recorded]
    return "; ".join([*waiting, *([line.gap.closes] if line.gap.closes else [])])


def _unbroken(text: str) -> str:
    """A number that stays on one line with its interval and unit."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
