"""SIGKILL at random places, with a fixed seed: what is started again ends bit for bit as what was left in peace.

A process dies at one of its changes to the files of its folder.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kto_lab.runs.record import read_record
from kto_lab.runs.status import status
from kto_lab.training.callbacks import METRICS
from tests.small_runs import overrides, write_jsonl
from tests.small_runs import thumbs as small_thumbs
from tests.sweeps.small_study import Sweep, same

PROGRAM = Path(__file__).with_name("killed.py")
SIX = ("optimization.max_steps=6", "optimization.checkpoint_every=2", "evaluation=none")
LORA = ("adapter=lora", "adapter.dropout=0.1", "adapter.rank=4")
RUNS, KILLS = 2, 3
KILLS_OF_SWEEP = 6


class Killer:
    """Runs `kto-lab` commands one after another, and kills them; see `killed.py`.

    Attributes:
        kills: how often it has.
    """

    def __init__(self) -> None:
        self.kills = 0
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, words: Sequence[str], folder: Path, *, at: int = 0) -> int:
        """Run a command to its end, or to a change in a folder; returns how many changes it made, 0 if killed."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps([str(folder), at, list(words)]), file=self.process.stdin, flush=True)
        ended, changes = json.loads(self.process.stdout.readline())
        assert ended in ((0, -signal.SIGKILL) if at else (0,)), words
        self.kills += ended == -signal.SIGKILL
        return int(changes)


@pytest.fixture(scope="module")
def importer() -> Iterator[Killer]:
    own = Killer()
    yield own
    own.process.communicate(timeout=60)


@pytest.fixture
def killer(importer: Killer) -> Killer:
    importer.kills = 0
    return importer


def listing(folder: Path) -> list[str]:
    """Every file and folder, hidden ones too: scratch would show."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / METRICS).read_bytes() == (other / METRICS).read_bytes()
    (mine,), (theirs,) = (list((folder / "policy").glob("*.safetensors")) for folder in (one, other))
    ours, others = load_file(mine), load_file(theirs)
    assert ours.keys() == others.keys() and all((ours[name] == others[name]).all() for name in ours)
    assert read_record(one)["metrics"] == read_record(other)["metrics"]
    assert listing(one) == listing(other)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "more"), [("all weights", ()), ("LoRA with dropout", LORA)])
def test_a_single_run(
    kind: str, more: tuple[str, ...], tmp_path: Path, killer: Killer, record_property: Callable[[str, object], None]
) -> None:
    record_property("what", f"`kto-lab train` ({kind}) killed: ends bit for bit as undisturbed, and leaves no scratch")
    draw, thumbs = random.Random(0), f"feedback.path={tmp_path / 'straight' / 'thumbs.jsonl'}"

    def words(name: str) -> list[str]:
        (tmp_path / name).mkdir()
        return ["train", *overrides(tmp_path / name, *SIX, *more, thumbs)]

    overridden = words("straight")
    write_jsonl(tmp_path / "straight" / "thumbs.jsonl", small_thumbs())
    straight = tmp_path / "straight" / "run"
    changes = killer.run(overridden, straight)
    for number in range(RUNS):
        name = f"broken{number}"
        overridden, folder = words(name), tmp_path / name / "run"
        for _ in range(KILLS):
            killer.run(overridden, folder, at=draw.randint(1, changes))
        killer.run(overridden, folder)
        record_property("tried", killer.kills)
        assert_same_run(straight, folder)
        assert not [name for name in listing(tmp_path / name / "store") if name.startswith(".")]
        record_property("held", killer.kills)
        shutil.rmtree(tmp_path / name)
    assert killer.kills >= RUNS


@pytest.mark.slow
def test_a_sweep(tmp_path: Path, killer: Killer, record_property: Callable[[str, object], None]) -> None:
    record_property(
        "what", "`kto-lab sweep` of four cells killed: each ends bit for bit as undisturbed, and leaves no scratch"
    )
    undisturbed, sweep, draw = Sweep(tmp_path / "undisturbed"), Sweep(tmp_path / "sweep"), random.Random(0)
    changes = killer.run(["sweep", *undisturbed.words], undisturbed.runs)
    for _ in range(KILLS_OF_SWEEP):
        # Early enough for the next one to have something left.
        killer.run(["sweep", *sweep.words], sweep.runs, at=draw.randint(1, changes // 3))
        assert all(status(folder) != "unreadable" for folder in sweep.runs.glob("cells/*"))
    killer.run(["sweep", *sweep.words], sweep.runs)
    record_property("tried", killer.kills)
    assert killer.kills >= KILLS_OF_SWEEP // 2
    for here, there in zip(sweep.folders(), undisturbed.folders(), strict=True):
        same(here, there)
    assert listing(sweep.runs) == listing(undisturbed.runs)
    record_property("held", killer.kills)
