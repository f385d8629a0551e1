"""One cell of a sweep: a run that is made once, whoever else sweeps, and whose failure stays its own."""

import traceback
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.cli import explain
from kto_lab.errors import LabError
from kto_lab.files import write_json
from kto_lab.studies.lease import LEASE, Watch, held, read_owner
from kto_lab.studies.record import RECORD, read_record

FAILURE = "failure.json"
LOG = "log.txt"


def status(folder: Path) -> str:
    """What became of a cell: "done", "failed", "running", "unreadable" (its record is damaged) or "missing"."""
    if (folder / RECORD).exists():
        try:
            read_record(folder)
        except LabError:
            return "unreadable"
        return "done"
    if read_owner(folder / LEASE) is not None:
        return "running"
    return "failed" if (folder / FAILURE).exists() else "missing"


def run_cell(cfg: DictConfig) -> str:
    """Run a cell to its end, or what is left of it, and return its status. Hydra calls this for each job.

    What the run says goes to `log.txt` in its folder. A failure is recorded with its traceback in `failure.json`, and
    does not reach the other cells; being asked to stop does.
    """
    from kto_lab.run import train

    folder = Path(cfg.run_dir)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "study"])
    assert isinstance(own, DictConfig)
    with held(folder, Watch()) as mine:
        if not mine or status(folder) == "done":
            return status(folder)
        for old in (FAILURE, RECORD):  # the record is damaged: a whole one is kept
            (folder / old).unlink(missing_ok=True)
        with console.into(folder / LOG):
            try:
                train(own)
            except Exception as error:
                if type(error).__name__ == "UncompletedJobError":
                    raise  # submitit's word for a job that ran out of time: not the cell's failure
                message = explain(error) or f"{type(error).__name__}: {error}"
                write_json(folder / FAILURE, {"error": message, "traceback": traceback.format_exc()})
                console.say(traceback.format_exc())
    return status(folder)
