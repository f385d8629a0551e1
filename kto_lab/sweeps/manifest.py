"""What a study's folder says of itself.

It holds `study.json`: the study (name, question, tables, figures, contrasts), its cells (choices, run_id, and the
folder of the run, relative to the study's; a record file will do), the command that made it, and how many of its runs
were finished when each of its contrasts was named. A cell whose run was made by other code than the sweep would have
run, which was accepted, names the modules that differ (`accepted_code`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_lab.errors import LabError
from kto_lab.files import is_name
from kto_lab.sealed import read_json

STUDY = "study.json"
TEXTS, LISTS = ("name", "question"), ("tables", "figures", "contrasts")
# A path from the study's folder: not from the root, without a scheme such as "javascript:", of printable characters.
_PATH = re.compile(r"(?!/|[A-Za-z][\w+.-]*:)[^\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class StudyFolder:
    """What `study.json` says.

    Attributes:
        folder: where it is.
        name: of the study.
        question: that it asks.
        tables: specifications of its tables.
        figures: specifications of its figures.
        cells: choices, run_id and folder of each run, and `accepted_code`.
        command: that made it.
        scale: option of the group `scale` that it was swept at, if any.
        contrasts: the comparisons that it named.
        named: contrasts that a sweep found in the study's file, each with how many runs were finished when it did.
    """

    folder: Path
    name: str
    question: str
    tables: Sequence[Mapping[str, Any]]
    figures: Sequence[Mapping[str, Any]]
    cells: Sequence[Mapping[str, Any]]
    command: str
    scale: str | None = None
    contrasts: Sequence[Mapping[str, Any]] = ()
    named: Sequence[tuple[Mapping[str, Any], int]] = ()


def read_study(folder: Path) -> StudyFolder:
    """Read `study.json` of a study's folder.

    Raises:
        DamagedError: it is damaged.
        LabError: there is none, or it is not what a sweep writes: a study may be another person's, so that names of
            folders must be names, and links lead to files.
    """
    file = folder / STUDY
    try:
        found = read_json(file, "Run the sweep again; it keeps the runs.")
        _check(found)
        study = found["study"]
        return StudyFolder(
            folder=folder,
            name=study["name"],
            question=study.get("question", ""),
            tables=study.get("tables") or [],
            figures=study.get("figures") or [],
            cells=[
                {key: cell[key] for key in ("choices", "run_id", "folder")}
                | {"accepted_code": list(cell.get("accepted_code", ()))}
                for cell in found["cells"]
            ],
            command=found.get("command", ""),
            scale=found.get("scale"),
            contrasts=study.get("contrasts") or [],
            named=[(one["contrast"], one["finished"]) for one in found.get("contrasts_named") or []],
        )
    except FileNotFoundError as error:
        raise LabError(f"There is no study at {file}. `kto-lab sweep study=<name>` writes it.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise LabError(
            f"{file} cannot be read as a study: {reason}. Run the sweep again; it keeps the runs."
        ) from error


def _check(found: Any) -> None:
    """See that a study's file is of the kinds that its reader takes for granted.

    Raises:
        ValueError: it is not; the message says where.
    """
    study, cells = found["study"], found["cells"]
    if not is_name(study["name"]):
        raise ValueError(f"study.name is {study['name']!r}, which is no name of a folder")
    for key in TEXTS:
        _expect(f"study.{key}", study.get(key, ""), str, "a text")
    for key in LISTS:
        for number, node in enumerate(study.get(key) or []):
            _expect(f"study.{key}[{number}]", node, dict, "a mapping")
    _expect("command", found.get("command", ""), str, "a text")
    for number, cell in enumerate(cells):
        where = f"cells[{number}]"
        _expect(f"{where}.choices", cell["choices"], dict, "a mapping")
        seed = cell["choices"].get("seed", 0)
        if type(seed) is not int:
            raise ValueError(f"{where}.choices.seed is {seed!r}, which is no whole number")
        if not is_name(cell["run_id"]):
            raise ValueError(f"{where}.run_id is {cell['run_id']!r}, which is no name of a folder")
        folder = cell["folder"]
        if not (isinstance(folder, str) and _PATH.fullmatch(folder)):
            raise ValueError(f"{where}.folder is {folder!r}, which is no path from the study's folder to a run's")
    for number, one in enumerate(found.get("contrasts_named") or []):
        _expect(f"contrasts_named[{number}].contrast", one["contrast"], dict, "a mapping")
        _expect(f"contrasts_named[{number}].finished", one["finished"], int, "a number")


def _expect(where: str, value: Any, kind: type, words: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{where} is {value!r}, which is not {words}")
