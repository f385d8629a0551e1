"""The record of a run: one `record.json` a run folder, written atomically and last: it stands for a finished run.

| key           | content                                                                                        |
|---------------|------------------------------------------------------------------------------------------------|
| `schema`      | version of this layout                                                                         |
| `status`      | "finished": there is no other, an unfinished run has no record                                 |
| `run_id`      | hash of everything that can change the result                                                  |
| `identity`    | what that is a hash of, by part: configuration, data, model, code; see `identity`              |
| `config`      | the resolved configuration                                                                     |
| `seeds`       | name to seed                                                                                   |
| `data`        | fingerprint and class counts of the table of examples; where the judge's weights came from     |
| `model`       | where the policy's weights came from, in which formats they were loaded, trained and frozen,   |
|               | and the number format that training, scoring, answers and lm-eval compute in; what each stage  |
|               | was planned to need in memory, in bytes                                                        |
| `training`    | optimiser steps, examples and tokens seen                                                      |
| `metrics`     | all final metrics, nested by name; a leaf is an estimate {value, low, high, n} (95 % interval) |
| `declared`    | better side, label and so on of the metrics that `kto_lab.evaluation.metrics` does not declare |
| `timings`     | stage to seconds, of the process that finished the run                                         |
| `peak_memory` | bytes: of the process since it began, of the CUDA devices since the run did                    |
| `environment` | package versions, commit, hardware                                                             |
| `files`       | what each file of the run folder is: name to path relative to it                               |
| `checksums`   | SHA-256 of what is read back: path relative to the run folder to hex digits                    |

Paths are relative to the run folder, or start with "~" in the home folder. Numbers are finite. Records of schema 1 have
no `identity`: what code they were made by is not known. The file ends with a checksum of its own; those of earlier
versions have none, and no `checksums`.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np

from kto_lab.errors import LabError
from kto_lab.memory import ANYWHERE, within_memory
from kto_lab.sealed import check_sum, parse_json, sums, write_json
from kto_lab.statistics import Estimate

SCHEMA = 2
# Schemas that are read.
READABLE = (1, SCHEMA)
RECORD = "record.json"
# What to do where memory runs out in a stage, unless what the stage does says so itself.
MENDS = {
    "feedback": "Lower feedback.max_rows, or use a machine with more memory.",
    "model": "Use a smaller model, or adapter=lora with model.dtype=bfloat16 and trainer.precision=bf16-mixed.",
    "plan": "Lower lengths.max_length, evaluation.max_new_tokens or optimization.micro_batch_tokens.",
    "training": (
        "Lower optimization.micro_batch_tokens or set optimization.gradient_checkpointing=true: neither changes the "
        "result. If that is not enough, use adapter=lora, a lower lengths.max_length, or trainer=fsdp on several GPUs."
    ),
    "saving": "Save the adapter alone (adapter.merge=false), or lower optimization.micro_batch_tokens.",
}


@dataclass
class Record:
    """Gathers what a run has to say for itself; `write` it when everything else is done.

    Attributes are the keys of the module's table; `folder` is the run folder.
    """

    folder: Path
    run_id: str
    config: Mapping[str, Any]
    seeds: Mapping[str, int]
    # Read when the run starts: by its end the checkout may be at another commit.
    environment: Mapping[str, Any]
    identity: Mapping[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int | None] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to the timing of this stage.

        Raises:
            OutOfMemoryError: there was not enough for the block.
        """
        start = time.perf_counter()
        try:
            with within_memory(f"the stage {name!r}", MENDS.get(name, ANYWHERE)):
                yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    def seal(self, *names: str) -> None:
        """Take in the checksums of files of the run folder, and of those in its folders; a missing one is left out."""
        self.checksums = sums(self.folder, [self.folder / name for name in names])

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON values.

        Raises:
            LabError: a number is NaN or infinite, or a value is no JSON; the message names its key.
        """
        parts = {
            "schema": SCHEMA,
            "status": "finished",
            "run_id": self.run_id,
            "identity": self.identity,
            "config": self.config,
            "seeds": self.seeds,
            "data": self.data,
            "model": self.model,
            "training": self.training,
            "metrics": self.metrics,
            "declared": self.declared,
            "timings": {name: round(seconds, 3) for name, seconds in self.timings.items()},
            "peak_memory": self.peak_memory,
            "environment": self.environment,
            "files": self.files,
            "checksums": self.checksums,
        }
        return {key: _plain(value, key, self.folder.absolute()) for key, value in parts.items()}

    def write(self, target: Path | None = None) -> Path:
        """Write the record, whole or not at all, and return its path.

        Args:
            target: the file; `record.json` in the run folder where none is given.

        Raises:
            LabError: as in `as_dict`, or the disk refuses.
        """
        target = target or self.folder / RECORD
        write_json(target, self.as_dict())
        return target


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a run folder, or a record file.

    Raises:
        LabError: there is none, it cannot be read, or its schema is another version's.
    """
    if (record := find_record(path)) is not None:
        return record
    raise LabError(
        f"There is no record at {path / RECORD if path.is_dir() else path}. A run writes it last, so this run has not "
        "finished; run it again to resume it."
    )


def find_record(path: Path | str) -> dict[str, Any] | None:
    """The record of a run folder, or of a record file; None where there is none.

    Raises:
        LabError: it cannot be read, or its schema is another version's.
    """
    # Opened rather than looked for first, and by its name: of ten thousand records each look and each Path counts.
    for file in (f"{path}/{RECORD}", path):
        try:
            with open(file, "rb") as opened:  # noqa: PTH123
                record = parse_json(opened.read(), file, "Remove it and run again.")
        except NotADirectoryError:
            continue
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LabError(f"{file} cannot be read: {error.strerror or error}. Mend that, and run again.") from error
        schema = record.get("schema")
        if schema not in READABLE:
            raise LabError(
                f"{file} has schema {schema!r}; this version of kto-lab reads schemas {', '.join(map(str, READABLE))}. "
                "Read it with the version that wrote it, or run again."
            )
        return record
    return None


def check_file(record: Mapping[str, Any], folder: Path, name: str) -> None:
    """Refuse a file of a finished run's folder that is not what the run left there, where its record can tell.

    Raises:
        DamagedError: it is so.
    """
    if name in (listed := record.get("checksums", {})):
        check_sum(folder / name, listed[name], "Put it back as the run wrote it, or train again in another run_dir.")


def _plain(value: Any, key: str, folder: Path) -> Any:
    """The value as JSON, checked; `key` is its dotted place in the record."""
    if isinstance(value, Estimate):
        value = value.as_dict()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}", folder) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}[{place}]", folder) for place, item in enumerate(value)]
    if isinstance(value, str | Path):
        return _portable(str(value.absolute() if isinstance(value, Path) else value), folder)
    if isinstance(value, float) and not math.isfinite(value):
        raise LabError(
            f"{key} is {value}, so no record was written: a record holds finite numbers only. "
            "Look at the stage that computes it; the policy and the checkpoints are kept."
        )
    if value is None or isinstance(value, bool | int | float):
        return value
    raise LabError(f"{key} is a {type(value).__name__}, which a record cannot hold. Give it as plain values.")


def _portable(text: str, folder: Path) -> str:
    """A path without what is particular to this machine, as far as that goes; any other text as it is."""
    if not text.startswith("/"):
        return text
    path, working, home = Path(text), Path.cwd(), Path.home()
    if path.is_relative_to(folder):
        return str(path.relative_to(folder))
    # A working folder at the root of the file system holds everything, and says nothing.
    if working != Path(working.anchor) and path.is_relative_to(working):
        return relpath(path, folder)
    return str(Path("~") / path.relative_to(home)) if path.is_relative_to(home) else text
