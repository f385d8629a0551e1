"""hydra/launcher=processes runs two cells at a time; slurm asks for the hardware of a cell, and waits to the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from joblib import cpu_count
from omegaconf import DictConfig, OmegaConf

from kto_lab import cli, stopping
from kto_lab.errors import LabError
from kto_lab.runs.job import LOG, Job, logs
from kto_lab.runs.record import read_record
from kto_lab.runs.status import FAILURE, status
from kto_lab.sweeps import cell, launching, slurm
from kto_lab.sweeps.launching import Launcher
from kto_lab.sweeps.parent import EndsWithSweep
from kto_lab.training.callbacks import METRICS
from kto_lab.training.fit import CHECKPOINTS
from tests.small_runs import SMALL, instead, thumbs, write_jsonl

STUDY = """# A study for the tests.
name: pair
question: Do two processes run two cells?
arms: {kto: [loss=kto], sft: [loss=sft]}
grid: {}
seeds: [0]
"""


def in_processes(folder: Path, *more: str) -> list[str]:
    """The command that sweeps the pair in two processes."""
    (folder / "own" / "study").mkdir(parents=True)
    (folder / "own" / "study" / "pair.yaml").write_text(STUDY)
    file = write_jsonl(folder / "thumbs.jsonl", thumbs())
    words = ["study=pair", "hydra/launcher=processes", "--config-dir", "own", *SMALL]
    words += [f"feedback.path={file}", "feedback.columns.split=split"]
    return [sys.executable, "-m", "kto_lab.cli", "sweep", *instead(words, *more)]


@pytest.mark.slow
def test_processes_share_the_cells_and_the_cores(tmp_path: Path) -> None:
    done = subprocess.run(
        in_processes(tmp_path, "optimization.max_steps=2"),
        # How many threads a process has is left to the launcher.
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    home = tmp_path / "runs" / "studies" / "pair"
    cells = json.loads((home / "study.json").read_text())["cells"]
    records = [read_record(home / one["folder"]) for one in cells]
    threads = [record["environment"]["cpu"]["threads"] for record in records]
    assert threads == 2 * [max(cpu_count() // 2, 1)]


@pytest.mark.slow
def test_each_process_sees_one_gpu(tmp_path: Path) -> None:
    command = in_processes(tmp_path, "trainer=auto", "trainer.precision=32-true")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run(
        command,
        env=environ | {"CUDA_VISIBLE_DEVICES": "5,7"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    # Here no GPU can be used, and what a cell then says of it names what it was given.
    failures = [json.loads(file.read_text())["error"] for file in tmp_path.glob(f"runs/cells/*/{FAILURE}")]
    assert len(failures) == 2, done.stdout + done.stderr
    assert all("(CUDA_VISIBLE_DEVICES=5)" in said or "(CUDA_VISIBLE_DEVICES=7)" in said for said in failures)


@pytest.mark.slow
def test_processes_save_their_cells_and_end_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    command = in_processes(tmp_path, "optimization.epochs=1000", "optimization.checkpoint_every=100000")
    with (tmp_path / "said.txt").open("w") as said:
        sweep = subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said)
    try:
        until(lambda: len(list(tmp_path.glob(f"runs/cells/*/{METRICS}"))) == 2, "both cells are trained")
        children = psutil.Process(sweep.pid).children(recursive=True)
        assert len(children) >= 2
    finally:
        # Not waited for yet: it stays in the list of processes, as one whose own parent is busy does.
        sweep.kill()
    gone, left = psutil.wait_procs(children, timeout=120)
    sweep.wait()
    assert not left and len(gone) == len(children), (tmp_path / "said.txt").read_text()
    folders = list(tmp_path.glob("runs/cells/*"))
    assert [sorted(file.name for file in (folder / CHECKPOINTS).iterdir()) for folder in folders] == 2 * [
        ["stopped.ckpt"]
    ]
    # They have let go of their cells, and have not failed.
    assert [status(folder) for folder in folders] == 2 * ["missing"]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


class Now:
    """An event that somebody waits for without a clock; `looks`: answers of the wait."""

    def __init__(self, *looks: bool) -> None:
        self.looks = list(looks)

    def wait(self, seconds: float) -> bool:
        return self.looks.pop(0)


def test_a_process_is_asked_to_stop_when_its_parent_is_gone_and_then_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    parents = [7, 7, 1]
    monkeypatch.setattr(stopping.os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(stopping.os, "kill", lambda pid, signum: done.append((pid, signum)))
    monkeypatch.setattr(stopping.os, "_exit", done.append)
    stopping._stop_without(7, Now(False, False, False))  # type: ignore[arg-type]
    assert done == [(os.getpid(), signal.SIGTERM), 143] and parents == []


def test_a_process_whose_cell_is_over_watches_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping.os, "getppid", lambda: 7)
    monkeypatch.setattr(stopping.os, "kill", lambda *_: pytest.fail("nobody is to be stopped"))
    over = Now(False, True)
    stopping._stop_without(7, over)  # type: ignore[arg-type]
    assert over.looks == []


def test_the_sweep_itself_runs_cells_as_they_are_and_slurm_without_a_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = OmegaConf.create({"seed": 3})
    assert EndsWithSweep(lambda config: config.seed)(cfg) == 3
    tasks = []
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda self, **given: tasks.append(given["task_function"]))
    for name in ("processes", "slurm"):
        Launcher(SimpleNamespace(), print, of_sweep(f"hydra/launcher={name}"))._instantiate(  # type: ignore[arg-type]
            of_sweep(f"hydra/launcher={name}")
        )
    assert tasks == [EndsWithSweep(print, os.getpid()), print]  # type: ignore[arg-type]


def of_sweep(*words: str) -> DictConfig:
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        return compose("train", list(words), return_hydra_config=True)


class Recorder:
    """Stands where Hydra composes and instantiates: takes configurations of cells, and notes what is launched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.launched: list[tuple[Any, list[Sequence[str]], int]] = []
        monkeypatch.setattr(Plugins, "instantiate_launcher", self.instantiate)
        self.config_loader = SimpleNamespace(load_sweep_config=lambda config, words: of_sweep(*words))

    def instantiate(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> Any:
        asked = OmegaConf.to_container(config.hydra.launcher, resolve=True)

        def launch(jobs: list[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            self.launched.append((asked, jobs, initial_job_idx))
            return []

        return SimpleNamespace(launch=launch)


def test_jobs_ask_for_the_devices_of_their_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    config = of_sweep("hydra/launcher=slurm", "runs_dir=elsewhere")
    jobs = [["seed=0"], ["trainer=ddp"], ["seed=1"], ["trainer=ddp", "trainer.num_nodes=3"]]
    jobs += [["trainer=gpu"], ["trainer=fsdp", "trainer.accelerator=gpu"]]
    monkeypatch.setattr(slurm, "tell_of_gpus", lambda config: None)
    Launcher(recorder, print, config).launch(jobs, 4)  # type: ignore[arg-type]
    asked_for = ("nodes", "tasks_per_node", "gpus_per_node")
    found = [([asked[key] for key in asked_for], alike, first) for asked, alike, first in recorder.launched]
    assert found == [
        ([1, 1, None], [["seed=0"], ["seed=1"]], 4),
        ([1, 2, None], [["trainer=ddp"]], 6),
        ([3, 2, None], [["trainer=ddp", "trainer.num_nodes=3"]], 7),
        ([1, 1, 1], [["trainer=gpu"]], 8),
        ([1, 2, 2], [["trainer=fsdp", "trainer.accelerator=gpu"]], 9),
    ]
    folders = {asked["submitit_folder"] for asked, _, _ in recorder.launched}
    assert len(folders) == 1 and folders.pop().startswith("elsewhere/slurm/")


def in_joblib(n_jobs: int | str, accelerator: str, devices: int) -> DictConfig:
    """What a cell that joblib runs is composed to, as far as launching goes."""
    launcher = {"_target_": "a.JoblibLauncher", "n_jobs": n_jobs}
    return OmegaConf.create(
        {"hydra": {"launcher": launcher}, "trainer": {"accelerator": accelerator, "devices": devices}}
    )


def test_processes_get_cells_that_need_as_many_gpus_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    shipped = OmegaConf.load(cli.config_dir() / "hydra" / "launcher" / "processes.yaml")
    n_jobs = OmegaConf.to_container(shipped, resolve=False)["n_jobs"]  # type: ignore[index, call-overload]
    ended: list[int] = []
    recorder = Recorder(monkeypatch)
    monkeypatch.setattr(launching, "end_idle_processes", lambda: ended.append(len(recorder.launched)))
    trainers = [("auto", 1), ("gpu", 2), ("auto", 1), ("cpu", 1)]
    recorder.config_loader = SimpleNamespace(
        load_sweep_config=lambda config, words: in_joblib(n_jobs, *trainers[int(words[0])])
    )
    Launcher(recorder, print, in_joblib(n_jobs, "auto", 1)).launch([["0"], ["1"], ["2"], ["3"]])  # type: ignore[arg-type]
    found = [(asked["n_jobs"], alike) for asked, alike, _ in recorder.launched]
    assert found == [(4, [["0"], ["2"]]), (2, [["1"]]), (2, [["3"]])]
    assert ended == [1, 2, 3], "a process has as many GPUs as its first cell needed"


@pytest.mark.parametrize(("n_jobs", "devices", "refused"), [(4, 1, False), (3, 2, True), (2, 2, False), (-1, 1, True)])
def test_more_processes_than_gpus_are_refused_ahead_of_all_cells(
    n_jobs: int, devices: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(launching, "end_idle_processes", lambda: None)
    recorder = Recorder(monkeypatch)
    kinds = [in_joblib(n_jobs, "cpu", 1), in_joblib(n_jobs, "auto", devices)]
    recorder.config_loader = SimpleNamespace(load_sweep_config=lambda config, words: kinds[int(words[0])])
    launch = Launcher(recorder, print, kinds[0]).launch  # type: ignore[arg-type]
    if refused:
        with pytest.raises(LabError, match=rf"n_jobs is {n_jobs}, but this machine has GPUs for {4 // devices} cells"):
            launch([["0"], ["1"]])
    else:
        launch([["0"], ["1"]])
    assert [alike for _, alike, _ in recorder.launched] == ([] if refused else [[["0"]], [["1"]]])


def test_a_launcher_that_follows_no_cell_has_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "visible", tuple)
    recorder = Recorder(monkeypatch)
    recorder.config_loader = None
    Launcher(recorder, print, of_sweep("hydra/launcher=processes")).launch([["a=1"], ["a=2"]])  # type: ignore[arg-type]
    ((asked, jobs, first),) = recorder.launched
    assert (asked["n_jobs"], jobs, first) == (2, [["a=1"], ["a=2"]], 0)


def test_a_launcher_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("no such plugin")

    monkeypatch.setattr(Plugins, "instantiate_launcher", missing)
    with pytest.raises(LabError, match="kto-lab\\[slurm\\]"):
        Launcher(SimpleNamespace(), print, of_sweep("hydra/launcher=processes")).launch([[]])  # type: ignore[arg-type]


def test_a_killed_process_is_said_and_ends_no_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    class TerminatedWorkerError(Exception):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise TerminatedWorkerError("out of memory")

    launching._run_here(SimpleNamespace(launch=killed), [[]], 0)
    assert "A process was killed" in capsys.readouterr().out


class FakeJob:
    """What submitit knows of a job, by the files it leaves."""

    def __init__(self, folder: Path, number: str) -> None:
        self.job_id = number
        self.paths = SimpleNamespace(result_pickle=folder / f"{number}.pkl", stdout=folder / f"{number}.out")
        self.value: Any = None

    def task(self, number: int) -> "FakeJob":
        assert number == 0
        return self

    def result(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that moves on when somebody sleeps."""
    now = [0.0]
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_job_that_leaves_the_queue_without_a_result_is_waited_for_twice(
    tmp_path: Path, waiting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[set[str] | None] = [None, {"7_0", "7_1"}, {"7_1"}, {"7_0", "7_1"}, {"7_1"}, {"7_1"}, set(), set()]
    monkeypatch.setattr(slurm, "in_queue", lambda: answers.pop(0))
    jobs: Any = [FakeJob(tmp_path, "7_0"), FakeJob(tmp_path, "7_1"), FakeJob(tmp_path, "7_2")]
    jobs[2].paths.result_pickle.touch()
    slurm.wait(jobs)
    assert answers == [] and waiting[0] == pytest.approx(8 * slurm.QUEUE_SECONDS, abs=1)


def test_what_is_said_of_a_job(tmp_path: Path) -> None:
    job: Any = FakeJob(tmp_path, "7_0")
    assert "without a word" in (slurm.problem_of(job) or "")
    job.paths.result_pickle.touch()
    job.value = JobReturn(status=JobStatus.COMPLETED)
    assert slurm.problem_of(job) is None
    job.value = JobReturn(status=JobStatus.FAILED)
    job.value.return_value = ValueError("timed-out too many times")
    assert slurm.problem_of(job) == "timed-out too many times"
    job.value = RuntimeError("trace\nImportError: no torch\n")
    assert slurm.problem_of(job) == "ImportError: no torch"


def test_a_limit_that_hides_preemptions_is_refused() -> None:
    asked = {"submitit_folder": "x", "max_num_timeout": 1, "timeout_min": 10, "setup": []}
    with pytest.raises(LabError, match="more than 10"):
        slurm.submit(SimpleNamespace(params=asked), [["seed=0"]], 0)  # type: ignore[arg-type]


def test_without_slurm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = {"submitit_folder": str(tmp_path), "max_num_timeout": 1, "timeout_min": 60, "setup": []}
    with pytest.raises(LabError, match="There is no Slurm here"):
        slurm.submit(SimpleNamespace(params=asked), [["seed=0"]], 0)  # type: ignore[arg-type]


def test_one_process_decides_and_the_others_hear_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Job("7_0", 1, rank, 2, tmp_path / f"7_0_{rank}_log.out") for rank in (0, 1))
    # What an earlier start has decided is of no account.
    Job("7_0", 0, 0, 2, tmp_path / "7_0_0_log.out").tell(True)
    monkeypatch.setattr(time, "sleep", lambda seconds: first.tell(False))
    assert first.leads and not second.leads
    assert second.is_told_to_run() is False


def test_the_first_process_is_not_waited_for_without_end(tmp_path: Path, waiting: list[float]) -> None:
    with pytest.raises(LabError, match="has not begun"):
        Job("7_0", 0, 1, 2, tmp_path / "log.out").is_told_to_run()
    assert waiting[0] >= 1800


def test_a_process_ends_with_the_first_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    class Over:
        def wait(self, seconds: float) -> bool:
            looks.append(seconds)
            if len(looks) == 3:
                (tmp_path / FAILURE).touch()
            return False

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(cell.os, "_exit", leave)
    with pytest.raises(SystemExit):
        cell._follow(tmp_path / FAILURE, Over())  # type: ignore[arg-type]
    assert len(looks) == 3


def test_a_run_that_is_no_cell_has_no_log(tmp_path: Path) -> None:
    assert logs(tmp_path) == {} and status(tmp_path) == "missing"
    (tmp_path / LOG).touch()
    assert logs(tmp_path) == {"log": tmp_path / LOG}


PAGE = Path(__file__).resolve().parents[2] / "docs" / "clusters.md"


def test_the_page_of_clusters_names_every_key_and_its_commands_compose() -> None:
    page = PAGE.read_text(encoding="utf-8")
    asked = of_sweep("hydra/launcher=slurm").hydra.launcher
    keys = {name for row in page.splitlines() if row.startswith("| `") for name in row.split("|")[1].split("`")[1::2]}
    assert keys == {str(key) for key in asked if key != "_target_"}
    commands = [line.split("#")[0].split() for line in page.splitlines() if line.strip().startswith("kto-lab sweep")]
    assert len(commands) >= 4
    for _, _, *words in commands:
        assert of_sweep(*words).study.name == "loss_aversion"
