"""The Slurm job that a cell runs in, where it does: which start of it this is, and which of its processes."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from kto_lab.errors import LabError
from kto_lab.sealed import read_json, write_json

LOG = "log.txt"
LOOK_SECONDS = 1.0
# To load torch on a busy file system takes minutes, and a dead owner's cell is waited for.
PATIENCE = 1800.0


@dataclass(frozen=True)
class Job:
    """A process of a Slurm job that `kto-lab sweep` has submitted.

    Attributes:
        identity: Slurm's number of the job, such as "12", or "12_3" in an array; it stays when the job is requeued.
        start: how often the job was requeued before.
        rank: of this process, over all nodes.
        processes: of the job.
        log: the file that this process's output goes to.
    """

    identity: str
    start: int
    rank: int
    processes: int
    log: Path

    @classmethod
    def current(cls) -> "Job | None":
        """The job that this process belongs to; None outside of one."""
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or "SUBMITIT_FOLDER" not in os.environ:
            return None
        # Imported here because it is installed for Slurm alone.
        import submitit

        here = submitit.JobEnvironment()
        start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(here.job_id, start, here.global_rank, here.num_tasks, here.paths.stdout)

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks for all: it holds the lease and writes what became of the cell."""
        return self.rank == 0

    def tell(self, runs: bool) -> None:
        """Tell the other processes whether the cell is run here; a process that waits for the others waits for all."""
        if self.processes > 1:
            write_json(self._decision, {"runs": runs})

    def is_told_to_run(self) -> bool:
        """What the first process has told, once it has.

        Raises:
            LabError: it has not for half an hour.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._decision.exists():
            if time.monotonic() > deadline:
                raise LabError(f"The first process of Slurm job {self.identity} has not begun; look at its log.")
            time.sleep(LOOK_SECONDS)
        return bool(read_json(self._decision, "Submit the job again.")["runs"])

    @property
    def _decision(self) -> Path:
        # Of this start alone: an earlier one may have decided otherwise.
        return self.log.parent / f"{self.identity}_start{self.start}.json"


def logs(folder: Path) -> dict[str, Path]:
    """The files that hold what a run has said, as its record names them: its cell's, and its Slurm job's."""
    found = {"log": folder / LOG} if (folder / LOG).exists() else {}
    job = Job.current()
    return found | ({"log of the Slurm job": job.log} if job else {})
