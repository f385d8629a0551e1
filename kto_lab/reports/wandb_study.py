"""A study in Weights & Biases: one run of its own for its verdicts, tables, budgets and figures.

That run is logged at a sweep's end and nowhere else: only the sweep knows the cells' logger. A sweep that finds
everything done runs nothing and logs it again, so it is also the way to renew it.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from kto_lab.hashing import content_hash
from kto_lab.runs.identity import CODE, RUN
from kto_lab.sweeps.manifest import StudyFolder, read_study
from kto_lab.sweeps.study import SEED
from kto_lab.sweeps.wandb_names import VARIABLES, WANDB

# Reports are imported where they are made: pandas and the rest take seconds, and most sweeps do without.
if TYPE_CHECKING:
    import pandas as pd

STATES = ("done", "failed", "running", "unreadable", "missing")


def log_study(logger: DictConfig, home: Path) -> None:
    """Log a study's verdicts, budgets, tables, figures and counts of cells as one W&B run.

    It is the same run for the same study and code.

    Args:
        logger: the cells' node, composed; nothing happens where it is not W&B's.
        home: the study's folder, with its `study.json`; its report is written anew.

    Raises:
        LabError: a table or a figure does not fit the study, or W&B does not start.
    """
    if logger.get("_target_") != WANDB:
        return
    from kto_lab.reports.frame import load
    from kto_lab.reports.report import REPORT, report
    from kto_lab.runs.wandb_log import log_artifact
    from kto_lab.training.loggers import LONGEST_TAG

    report(home)
    study, cells = read_study(home), load(home)
    code = content_hash(CODE.closure([RUN]))
    media, states, settings = _media(study, cells), list(cells["status"]), instantiate(logger)
    run_id = content_hash("study", study.name, code)
    (started,) = replace(
        settings,
        group=settings.group or os.environ.get(VARIABLES["group"]) or study.name,
        name=f"{study.name}: report",
        job_type="report",
        tags=settings.tags or (None if os.environ.get(VARIABLES["tags"]) else [study.name[:LONGEST_TAG]]),
    ).make(
        folder=home,
        run_id=run_id,
        config={"study": study.name, "question": study.question, "code": code},
    )
    with started.experiment as run:
        run.log(media)
        for path in settings.kept(policy=None, report=home / REPORT):
            log_artifact(run, path, run_id)
        run.summary.update({f"cells/{state}": states.count(state) for state in STATES})


def _media(study: StudyFolder, cells: "pd.DataFrame") -> dict[str, Any]:
    """The study's cells, tables and figures as W&B takes them. Messages of failures stay here: they may name paths."""
    import pandas as pd
    import wandb

    from kto_lab.reports.frame import choices
    from kto_lab.reports.selection import CHOSEN
    from kto_lab.reports.sheets import BUDGETS, CONTRASTS
    from kto_lab.runs.wandb_log import table

    media: dict[str, Any] = {"cells": table(_rows(cells[[*choices(cells), SEED, "status", "run_id"]]))}
    # By name: files of older specifications may lie beside them, and there are no figures before a cell is done.
    searches = [f"{spec['name']}_{CHOSEN}" for spec in [*study.tables, *study.figures] if spec.get("choose")]
    sheets = [*([CONTRASTS] if study.contrasts else []), BUDGETS]
    for name in [*(spec["name"] for spec in study.tables), *searches, *sheets]:
        if (file := study.folder / "tables" / f"{name}.csv").exists():
            media[f"tables/{name}"] = table(_rows(pd.read_csv(file)))
    for name in (spec["name"] for spec in study.figures):
        if (file := study.folder / "figures" / f"{name}.png").exists():
            media[f"figures/{name}"] = wandb.Image(str(file))
    return media


def _rows(frame: "pd.DataFrame") -> list[Mapping[str, Any]]:
    """The rows of a frame as plain values; None where there is nothing."""
    from kto_lab.reports.frame import plain

    return [{str(key): plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
