"""A small study for the tests of sweeps, whose cells are planned and never run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from kto_lab.cli import config_dir
from kto_lab.files import write_json
from kto_lab.runs.identity import plain_values
from kto_lab.runs.record import RECORD, SCHEMA
from kto_lab.sweeps.composing import Composer, Planned, opened
from kto_lab.sweeps.finished import FinishedRuns
from kto_lab.sweeps.study import Cell
from tests.reports.study_folders import record
from tests.small_runs import SMALL, thumbs, write_jsonl

OWN = ["runs_dir=runs"]


class Ground:
    """A folder of configuration and a file of thumbs of one's own, and the two cells of a study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.thumbs = write_jsonl(folder / "thumbs.jsonl", thumbs())
        (folder / "conf" / "loss").mkdir(parents=True)
        self.loss("beta: 0.1")
        words = (*SMALL, f"feedback.path={self.thumbs}", "loss=mine")
        self.cells = [Cell({"seed": seed}, (*words, f"seed={seed}")) for seed in (0, 1)]

    def loss(self, *lines: str) -> None:
        text = "\n".join(["# Mine.", "defaults:", "  - sft", "  - _self_", *lines, ""])
        (self.folder / "conf" / "loss" / "mine.yaml").write_text(text.replace("beta", "reward_beta"))

    @contextmanager
    def composer(self, *accept_code: str) -> Iterator[Composer]:
        with opened(config_dir(), OWN, more=self.folder / "conf") as (loader, config):
            finished = FinishedRuns(self.folder / "runs", self.folder / "results")
            kept = self.folder / "plan.json"
            yield Composer(loader, config, own=OWN, kept=kept, finished=finished, accept_code=accept_code)

    def plan(self, *accept_code: str) -> list[Planned]:
        """Of all cells; kept, as a sweep does."""
        with self.composer(*accept_code) as composer:
            found = [composer.plan(cell) for cell in self.cells]
            composer.keep()
        return found

    def why(self) -> list[str]:
        """What a sweep says of the cells."""
        with self.composer() as composer:
            planned = [composer.plan(cell) for cell in self.cells]
            return [composer.finished.why_missing(one.identity, composer.settings(one.cell)) for one in planned]

    def finish(self, planned: Planned, folder: Path | None = None) -> None:
        """Write the record of a cell, as if it had been run."""
        with self.composer() as composer:
            config = plain_values(composer.compose(planned.cell))
        own = {"schema": SCHEMA, "run_id": planned.run_id, "identity": asdict(planned.identity), "config": config}
        write_json((folder or planned.folder) / RECORD, record(0, scores=[1.0]) | own)
