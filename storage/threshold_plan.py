"""PURE. What a list of thresholds would do: which line is about which threshold, what is new, and what cannot be.

A line without a number is about the threshold of its device (or selector) and metric that says the same already; else about the
one of its severity that watches the same side; else it is a new one. Where that could be several, the line must give a number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from storage.device_import import Problem
from storage.refusals import InvalidInput
from storage.threshold_fields import Selector, Threshold, check_threshold, selector_text
from storage.threshold_rows import Stored

Subject = tuple[bool, str, str]
"""(of a class?, device or selector, metric)."""


class ThresholdLine(NamedTuple):
    """One threshold of a list, of a device or of a selector."""

    number: int
    """In the file, from 1."""
    id: int | None
    device: str | None
    selector: Selector | None
    metric: str
    values: Mapping[str, Any]
    """By the fields of Threshold; what is absent stays as it is, or takes its default."""

    @property
    def subject(self) -> Subject:
        """What it is about."""
        if self.selector is not None:
            return True, selector_text(self.selector), self.metric
        return False, str(self.device), self.metric

    def onto(self, row: Stored) -> Threshold:
        """Returns what a threshold says after this line."""
        return replace(row.threshold, **self.values)

    def may_mean(self, row: Stored) -> bool:
        """Tells whether it may be about that threshold: the same severity, and at least one side in common."""
        after, before = self.onto(row), row.threshold
        return after.severity == before.severity and bool(after.sides & before.sides)


class Planned(NamedTuple):
    """What a line does. `before` None: something new."""

    line: ThresholdLine
    before: Stored | None
    after: Threshold

    @property
    def verb(self) -> str:
        """What is done: add, change or keep."""
        if self.before is None:
            return "add"
        return "keep" if self.before.threshold == self.after else "change"


@dataclass(frozen=True, slots=True)
class Site:
    """What a list is compared with."""

    stored: Sequence[Stored]
    """Without what classes keep."""
    owners: Mapping[str, str]
    """By device: the login of its owner, or system."""
    retired: frozenset[str]
    logins: frozenset[str]


def plan_import(lines: Sequence[ThresholdLine], site: Site) -> tuple[list[Planned], list[Problem]]:
    """Returns what is to be done, in the order of the lines, and all that is wrong."""
    good, problems = _with_owners(lines, site)
    meant, unclear = _meant(good, site.stored)
    problems += unclear
    plan = []
    stopped = {problem.number for problem in unclear}
    for line in good:
        before = meant.get(line.number)
        after = line.onto(before) if before is not None else Threshold(line.metric, **line.values)
        if line.number in stopped:
            continue
        if before is None and line.device in site.retired:
            step = f"factoryd device edit {line.device} --active takes it back"
            problems.append(Problem(line.number, f"device: {line.device} is retired; {step}"))
        try:
            check_threshold(after)
        except InvalidInput as error:
            problems.append(Problem(line.number, str(error)))
        plan.append(Planned(line, before, after))
    return plan, [*problems, *_doubles(plan)]


def _with_owners(lines: Sequence[ThresholdLine], site: Site) -> tuple[list[ThresholdLine], list[Problem]]:
    """An empty owner means the device's own."""
    good, problems = [], []
    for line in lines:
        owner = line.values.get("owner")
        if owner is not None and owner not in site.logins:
            problems.append(Problem(line.number, f"owner: user {owner} does not exist; factoryd user add makes one"))
        elif line.device is not None and line.device not in site.owners:
            step = f"factoryd device add {line.device} registers it"
            problems.append(Problem(line.number, f"device: {line.device} is not registered; {step}"))
        elif line.device is not None and "owner" in line.values:
            good.append(line._replace(values={**line.values, "owner": owner or site.owners[line.device]}))
        else:
            good.append(line)
    return good, problems


def _meant(lines: Sequence[ThresholdLine], stored: Sequence[Stored]) -> tuple[dict[int, Stored], list[Problem]]:
    """Returns by number of line the threshold that it is about."""
    free = {(row.is_class, row.id): row for row in stored}
    meant, problems = _by_id(lines, free)
    groups: dict[Subject, list[Stored]] = {}
    for row in free.values():
        groups.setdefault((row.is_class, row.target, row.threshold.metric), []).append(row)
    rest: dict[Subject, list[ThresholdLine]] = {}
    for line in lines:
        group = groups.get(line.subject, [])
        same = next((row for row in group if line.onto(row) == row.threshold), None)
        if line.id is None and same is not None:
            group.remove(same)
            meant[line.number] = same
        elif line.id is None:
            rest.setdefault(line.subject, []).append(line)
    for subject, those in rest.items():
        for line in those:
            candidates = [row for row in groups.get(subject, []) if line.may_mean(row)]
            rivals = [str(other.number) for other in those if any(map(other.may_mean, candidates))]
            if len(candidates) == 1 and len(rivals) == 1:
                meant[line.number] = candidates[0]
            elif candidates:
                problems.append(_unclear(line, candidates, rivals))
    return meant, problems


def _unclear(line: ThresholdLine, candidates: Sequence[Stored], rivals: Sequence[str]) -> Problem:
    names = ", ".join(row.name for row in candidates)
    text = f"{names} may be meant by line {', '.join(rivals)}; an id says which: factoryd threshold export --ids shows them"
    return Problem(line.number, f"id: {text}")


def _by_id(lines: Sequence[ThresholdLine], free: dict[tuple[bool, int], Stored]) -> tuple[dict[int, Stored], list[Problem]]:
    """Takes those that a line gives the number of out of `free`."""
    meant, problems = {}, []
    for line in lines:
        if line.id is None:
            continue
        is_class, target, metric = line.subject
        row = free.pop((is_class, line.id), None)
        if row is None:
            kind = "class" if is_class else "threshold"
            why = "a class keeps it, a line above has it, or there is none; leave the id empty for a new one"
            problems.append(Problem(line.number, f"id: {kind} {line.id} cannot be meant: {why}"))
        elif (row.target, row.threshold.metric) != (target, metric):
            problems.append(Problem(line.number, f"id: {row.name} is of {row.target} {row.threshold.metric}"))
        else:
            meant[line.number] = row
    return meant, problems


def _doubles(plan: Sequence[Planned]) -> Iterator[Problem]:
    first: dict[tuple[Subject, Threshold], Planned] = {}
    for planned in plan:
        other = first.setdefault((planned.line.subject, planned.after), planned)
        if other is not planned and (planned.before is None or other.before is None):
            yield Problem(planned.line.number, f"says the same as line {other.line.number}")
