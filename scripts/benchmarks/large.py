"""`benchmark.py large`: what whole commands cost on a file of many thumbs, beside one of few.

A training run of four steps (`trainer=debug`) and `kto-lab feedback inspect`, each twice: with an empty cache folder,
and with the table that the first of them has left there. Four thousand thumbs, whose table is not kept, show what is
not the file's.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, showing
from benchmarks.commands import KTO_LAB, run
from benchmarks.reading import Settings as Files
from benchmarks.reading import written
from kto_lab.files import write_json

FEW = 4_000
COMMANDS = {
    "train": ("train", "trainer=debug"),
    "feedback inspect": ("feedback", "inspect"),
}
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        rows: thumbs of the large file, which is JSON lines.
        characters: of a completion; a prompt, which four of them share, has a third.
        threads: of torch.
    """

    rows: int
    characters: int
    threads: int


def main(settings: Settings, out: Path) -> Path:
    """Measure, and write and show the results."""
    found = list(measured(settings))
    showing.show_rows("commands on a large file", found)
    about = {"kind": "large", "machine": machine.described(), "settings": asdict(settings), "large": found}
    target = out / f"large-{settings.rows}.json"
    write_json(target, about)
    return target


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for each command, file and state of the cache."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        for rows in (FEW, settings.rows):
            files = written(folder, Files(rows, settings.characters, ("jsonl",), 1))
            for command, words in COMMANDS.items():
                os.environ["KTO_LAB_CACHE"] = str(folder / f"cache-{command}-{rows}")
                for table in ("made", "kept") if rows > FEW else ("made",):
                    place = folder / f"{command}-{rows}-{table}"
                    made = "output" if command == "feedback inspect" else "run_dir"
                    told = (f"{made}={place}", "feedback=file", f"feedback.path={files['jsonl']}")
                    ran = run([*KTO_LAB, *words, *told], folder / "log", threads=settings.threads, cwd=folder)
                    yield {
                        "command": command,
                        "thumbs": rows,
                        "MB of file": files["jsonl"].stat().st_size / _MEGABYTE,
                        "table": table,
                        "CPU s": ran.cpu_seconds,
                        "peak MB": ran.peak_memory / _MEGABYTE,
                    }
