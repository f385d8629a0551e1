"""What became of a study's cells, for a person: how many are done, and why the others are not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.runs.record import find_record
from kto_lab.runs.status import FAILURE, status
from kto_lab.sealed import read_json
from kto_lab.sweeps.composing import Planned
from kto_lab.sweeps.manifest import STUDY
from kto_lab.sweeps.study import Cell

Item = TypeVar("Item")
# Reasons that are told apart; the rest are counted.
TOLD = 20


def name(cell: Cell) -> str:
    """A cell by its choices."""
    return " ".join(f"{key}={value}" for key, value in cell.choices.items())


def tell(planned: Sequence[Planned]) -> None:
    """Say how many cells there are, and what became of them so far."""
    states = [status(item.folder) for item in planned]
    counts = {state: states.count(state) for state in sorted(set(states))}
    console.say(f"    {len(planned)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.items()))


def finish(planned: Sequence[Planned], home: Path, problems: Mapping[Path, str]) -> None:
    """Say how it ended.

    Args:
        planned: all cells of the study.
        home: the study's folder.
        problems: what the launcher was told of cells that ended without a word in their folder.

    Raises:
        LabError: not every cell is done; the message has each distinct reason once, with its number of cells and one
            of them.
    """
    left = [item for item in planned if status(item.folder) != "done"]
    console.say(f"    {len(planned) - len(left)} of {len(planned)} cells are done; {home / STUDY} lists them")
    if not left:
        return
    reasons = [(f"{status(item.folder)}: {reason_of(item.folder, problems)}", item) for item in left]
    # A reason that names its cell's folder is the same in another cell.
    grouped = list(groups((reason.replace(str(item.folder), "its folder"), item) for reason, item in reasons))
    lines = [
        line
        for reason, count, item in grouped[:TOLD]
        for line in (
            f"  {count} {_indented(reason)}",
            f"      {'such as ' if count > 1 else ''}{name(item.cell)}: {item.folder}",
        )
    ]
    if more := grouped[TOLD:]:
        lines.append(f"  {sum(count for _, count, _ in more)} for {len(more)} other reasons")
    raise LabError(
        f"{len(left)} of {len(planned)} cells are not done.\n"
        + "\n".join(lines)
        + f"\nThe folder of a failed cell has its traceback in {FAILURE}; --dry-run lists all cells."
        + "\nRun the same command again to go on; --retry-failed tries failed ones again."
    )


def reason_of(folder: Path, problems: Mapping[Path, str]) -> str:
    """Why a cell is not done, as far as anything tells."""
    state = status(folder)
    if state == "running":
        return "another process holds it, or held it and was killed"
    if state == "unreadable":
        try:
            find_record(folder)
        except LabError as error:
            return str(error)
    if state == "failed":
        try:
            return str(read_json(folder / FAILURE, "--retry-failed runs it again.")["error"])
        except LabError as error:
            return str(error)
        except (OSError, KeyError) as error:
            return f"{FAILURE} cannot be read: {type(error).__name__}"
    return problems.get(folder, "it was not begun, or was stopped or killed without a word")


def groups(reasons: Iterable[tuple[str, Item]]) -> Iterator[tuple[str, int, Item]]:
    """Each distinct reason with how many have it and the first that has, the most frequent first."""
    having: dict[str, list[Item]] = {}
    for reason, item in reasons:
        having.setdefault(reason, []).append(item)
    for reason, items in sorted(having.items(), key=lambda one: -len(one[1])):
        yield reason, len(items), items[0]


def _indented(text: str) -> str:
    return "\n      ".join(text.strip().splitlines())
