"""What it costs to read thumbs: kto-lab's reader and its table of examples, beside pyarrow and `datasets`.

Each contestant reads the same file in a process of its own, several times: CPU seconds without imports, of the first
reading and of the fastest of those after it, which find memory and code warm; and how much larger the first one made
the process, which had only imported the same packages.
"""

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine, showing
from benchmarks.contestants import ENTRY
from kto_lab.files import write_json

PYARROW, DATASETS, ROWS, TABLE = "pyarrow", "datasets", "kto-lab, rows", "kto-lab, table of examples"
KEPT = "kto-lab, table that is kept"
CONTESTANTS = (PYARROW, DATASETS, ROWS, TABLE, KEPT)
FORMATS = ("jsonl", "csv", "parquet")
KINDS = {"jsonl": "json", "csv": "csv", "parquet": "parquet"}
_MEGABYTE = 2**20
_BLOCK = 10_000
# Of a process: the first, and some that find it warm.
_READINGS = 3


@dataclass(frozen=True)
class Settings:
    """What is read.

    Attributes:
        rows: thumbs of each file.
        characters: of a completion; a prompt, which four of them share, has a third.
        formats: of `FORMATS`.
        rounds: how often each contestant reads each file; the median counts.
    """

    rows: int
    characters: int
    formats: tuple[str, ...]
    rounds: int


def main(settings: Settings, out: Path) -> Path:
    """Measure, and write and show the results."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder), settings)
        for name, file in files.items():
            measured = {who: [measure(who, file) for _ in range(settings.rounds)] for who in CONTESTANTS}
            medians = {
                who: {name: median(one[name] for one in runs) for name in runs[0]} for who, runs in measured.items()
            }
            base = medians[PYARROW]
            found += [
                {
                    "file": f"{name}, {file.stat().st_size / _MEGABYTE:,.0f} MB",
                    "": who,
                    "first, CPU s": one["first"],
                    "over pyarrow": one["first"] / base["first"],
                    "again, CPU s": one["again"],
                    "over pyarrow again": one["again"] / base["again"],
                    "MB of memory": one["megabytes"],
                }
                for who, one in medians.items()
            ]
    showing.show_rows("reading", found)
    about = {"kind": "reading", "machine": machine.described(), "settings": asdict(settings), "reading": found}
    target = out / f"reading_{settings.rows}.json"
    write_json(target, about)
    return target


def measure(who: str, file: Path) -> dict[str, float]:
    """CPU seconds and megabytes of readings in a process of their own; see `contestant`."""
    words = [sys.executable, str(ENTRY), "reader", who, str(file)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def written(folder: Path, settings: Settings) -> dict[str, Path]:
    """The same invented thumbs in each format."""
    files = {name: folder / f"thumbs.{name}" for name in settings.formats}
    if "jsonl" in files:
        with files["jsonl"].open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in thumbs(settings))
    if "csv" in files:
        with files["csv"].open("w", encoding="utf-8", newline="") as target:
            cells = csv.writer(target)
            cells.writerow(["prompt", "completion", "label"])
            cells.writerows([row["prompt"], row["completion"], str(row["label"]).lower()] for row in thumbs(settings))
    if "parquet" in files:
        kinds = pa.schema({"prompt": pa.string(), "completion": pa.string(), "label": pa.bool_()})
        with pq.ParquetWriter(files["parquet"], kinds) as parquet:
            block: list[dict[str, Any]] = []
            for row in thumbs(settings):
                block.append(row)
                if len(block) == _BLOCK:
                    parquet.write_table(pa.Table.from_pylist(block, kinds))
                    block = []
            if block:
                parquet.write_table(pa.Table.from_pylist(block, kinds))
    return files


def thumbs(settings: Settings) -> Iterator[dict[str, Any]]:
    """Thumbs whose words are drawn at random."""
    draw = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5000)])
    count = max(settings.characters // 9, 1)
    prompt = ""
    for number in range(settings.rows):
        if number % 4 == 0:
            prompt = f"{number}: {' '.join(draw.choice(words, max(count // 3, 1)))}"
        yield {"prompt": prompt, "completion": " ".join(draw.choice(words, count)), "label": bool(draw.random() < 0.6)}


def contestant(who: str, file: Path) -> dict[str, float]:
    """Read a file in this process: CPU seconds of the first reading and of the fastest later one; megabytes."""
    read = READERS[who](file)
    before, seconds = psutil.Process().memory_info().rss, list[float]()
    peak = before
    for _ in range(_READINGS):
        begun = time.process_time()
        with redirect_stdout(StringIO()):
            kept = read()
        seconds.append(time.process_time() - begun)
        del kept
        if len(seconds) == 1:
            # ru_maxrss is in kilobytes on Linux.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"first": seconds[0], "again": min(seconds[1:]), "megabytes": (peak - before) / _MEGABYTE}


def by_pyarrow(file: Path) -> Callable[[], Any]:
    """The whole file in memory, as Arrow has it."""
    import pyarrow.csv
    import pyarrow.json

    read = {".jsonl": pyarrow.json.read_json, ".csv": pyarrow.csv.read_csv, ".parquet": pq.read_table}[file.suffix]
    return lambda: read(file)


def by_datasets(file: Path) -> Callable[[], Any]:
    """A data set on the disk, which is written now."""
    import datasets

    datasets.disable_progress_bars()
    kind = KINDS[file.suffix[1:]]

    def read() -> Any:
        cache = tempfile.mkdtemp(dir=file.parent)
        return datasets.load_dataset(kind, data_files=str(file), split="train", cache_dir=cache)

    return read


def by_rows(file: Path) -> Callable[[], Any]:
    """Every row as kto-lab's readers get it."""
    from kto_lab.feedback.rows import Reading, existing, read_rows

    def read() -> None:
        for _ in read_rows(existing(file, "path"), Reading(), quiet=True):
            pass

    return read


def by_table(file: Path) -> Callable[[], Any]:
    """The table of examples: looked at, checked, hashed and written to the disk."""
    from kto_lab.feedback import table_cache

    table_cache.LEAST = sys.maxsize
    return _of_examples(file)


def by_kept(file: Path) -> Callable[[], Any]:
    """The table of examples that an earlier reading has left in the cache folder."""
    from kto_lab import hashing
    from kto_lab.feedback import table_cache

    table_cache.LEAST = 0
    os.environ["KTO_LAB_CACHE"] = tempfile.mkdtemp(dir=file.parent)
    examples = _of_examples(file)

    def read() -> Any:
        # Another process would hash the file again.
        hashing._remembered.cache_clear()
        return examples()

    with redirect_stdout(StringIO()):
        read()
    return read


def _of_examples(file: Path) -> Callable[[], Any]:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from kto_lab import cli

    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        node = compose("train", ["feedback=file", f"feedback.path='{file}'"]).feedback
    import kto_lab.feedback.file  # noqa: F401 (imports do not count)

    return lambda: instantiate(node)


READERS = {PYARROW: by_pyarrow, DATASETS: by_datasets, ROWS: by_rows, TABLE: by_table, KEPT: by_kept}
