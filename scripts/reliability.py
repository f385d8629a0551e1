"""Runs the harnesses of tests/reliability, keeps their counts in results/reliability, and writes docs/reliability.md.

python scripts/reliability.py kills damage command_lines    # some parts, or none: then the page is written again

A part is a file tests/reliability/test_<part>.py; the rows of parts that are not run stay as they were measured. A test
tells its row by `record_property`: `what` was tried, how often (`tried`) and how often it `held`. A test that tells
nothing counts once for each of its cases, by the name of its function.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kto_lab import __version__
from kto_lab.errors import LabError
from kto_lab.files import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "results" / "reliability"
TARGET = ROOT / "docs" / "reliability.md"
# By part, in the order of the page: its heading, and what is done there.
PARTS = {
    "kills": (
        "Killed",
        "A process is killed (SIGKILL) at one of its changes to the files of its folder (a file that is opened to be "
        "written, a name that is made, moved or removed), drawn at random with a fixed seed; the same command is given "
        "again, and killed again, until it is left in peace. Its metrics, weights and record must be those of a run "
        "that nobody has touched, bit for bit, and so must the list of its files.",
    ),
    "damage": (
        "Damaged",
        "A bit is flipped, the second half is lost, or a third reads as zeros, in place, in each file that a command "
        "reads back. The files are found by listing the folders. The command must end as if nothing had been, or with "
        "an error that names the file.",
    ),
    "command_lines": (
        "Mistyped",
        "Command lines with a mistake. Each must end with a sentence that names the key or the file: no traceback, no "
        "hang, and nothing that is silently taken for something else.",
    ),
}
PREAMBLE = """\
# Reliability

<!-- Written by scripts/reliability.py from results/reliability. Do not edit. -->

What is done to kto-lab in its slow tests, how often, and what held. `python scripts/reliability.py kills damage
command_lines` does it again and writes this page; one of these words does one part.
"""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        what: was tried.
        tried: how often.
        held: how often it ended as it must.
    """

    what: str
    tried: int
    held: int


def main() -> None:
    """Run the parts that the command line names, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="|".join(PARTS))
    failed = [part for part in parser.parse_args().parts if not measure(part)]
    write_text(TARGET, page())
    if failed:
        sys.exit(f"Not everything held: {', '.join(failed)}. {TARGET} says what.")


def measure(part: str) -> bool:
    """Run the harness of a part, keep what it counts, and return whether all of it held."""
    tests = ROOT / "tests" / "reliability" / f"test_{part}.py"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(tests), "-m", "slow or not slow"]
        command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]
        done = subprocess.run(command, cwd=ROOT)
        if not report.exists():
            raise SystemExit(f"{tests} could not be run.")
        rows = counted(ElementTree.parse(report).getroot())
    about = {"version": __version__, "date": date.today().isoformat(), "on": machine()}
    write_json(KEPT / f"{part}.json", about | {"rows": [asdict(row) for row in rows]})
    return done.returncode == 0


def machine() -> str:
    """What it ran on, in a few words."""
    return f"{platform.system()}, Python {platform.python_version()}, torch {version('torch').partition('+')[0]}"


def counted(report: ElementTree.Element) -> list[Row]:
    """The rows of a JUnit report: those that tests tell, and the others by their functions."""
    rows: dict[str, Row] = {}
    for case in report.iter("testcase"):
        if case.find("skipped") is not None:
            continue
        # The last of a name counts: a test tells how far it has come.
        told = {one.get("name"): str(one.get("value")) for one in case.iter("property")}
        passed = case.find("failure") is None and case.find("error") is None
        name = str(case.get("name")).partition("[")[0].removeprefix("test_").replace("_", " ")
        what, tried = told.get("what", name), int(told.get("tried", 1))
        if not tried:
            continue
        held = int(told.get("held", 0 if "tried" in told else passed))
        before = rows.get(what, Row(what, 0, 0))
        rows[what] = Row(what, before.tried + tried, before.held + min(held, tried))
    return list(rows.values())


def page() -> str:
    """docs/reliability.md, from what is kept."""
    parts = [PREAMBLE]
    for part, (heading, about) in PARTS.items():
        parts.append(f"## {heading}\n\n{textwrap.fill(about, 120)}\n")
        parts.append(_section(part) + "\n")
    return "\n".join(parts)


def _section(part: str) -> str:
    file = KEPT / f"{part}.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"Not measured yet: `python scripts/reliability.py {part}`."
    except ValueError as error:
        raise LabError(f"{file} cannot be read: {error}. Run this part again.") from error
    return "\n".join(
        [
            *_table(Row(**row) for row in found["rows"]),
            "",
            f"Measured on {found['date']} with kto-lab {found['version']} ({found['on']}).",
        ]
    )


def _table(rows: Iterable[Row]) -> list[str]:
    lines = [f"| {row.what.replace('|', chr(92) + '|')} | {row.tried} | {row.held} |" for row in rows]
    return ["| what was tried | times | held |", "|---|---|---|", *lines]


if __name__ == "__main__":
    main()
