"""The parent's side of the pipe: starts contestants, and lets them take steps one by one, never two at a time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gate import FORGET, STEP
from benchmarks.jobs import Job

ENTRY = Path(__file__).resolve().parent.parent / "benchmark.py"


class ContestantError(RuntimeError):
    """A contestant ended before its time."""


@dataclass
class Contestant:
    """A running contestant.

    Attributes:
        job: what it does.
        process: it.
        facts: what it said when it was ready; `start_seconds` since its process began.
        steps: what it said of each step.
    """

    job: Job
    process: subprocess.Popen[str]
    facts: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def step(self) -> dict[str, Any]:
        """Let it take a step."""
        if self.job.forgets and len(self.steps) == self.job.warmup + 1:
            self._tell(FORGET)
        self._tell(STEP)
        self.steps.append(self.answer())
        return self.steps[-1]

    def answer(self) -> dict[str, Any]:
        """What it says next.

        Raises:
            ContestantError: it ended instead; the message holds the end of what it printed.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            said = Path(self.job.folder, "log.txt").read_text(encoding="utf-8", errors="replace")
            raise ContestantError(f"{self.job.contestant} ended with {code}:\n{said[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()


def environment(threads: int) -> dict[str, str]:
    """The environment of a contestant: offline, and so many threads."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }


@contextmanager
def started(job: Job) -> Iterator[Contestant]:
    """A contestant that is ready for its first step; it ends with the block."""
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    # What the TRL of this run keeps of reference log-probs starts out empty.
    private = {"HF_DATASETS_CACHE": str(folder / "datasets")}
    begun = time.perf_counter()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, str(ENTRY), "contestant", job.as_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(job.threads) | private,
        )
    contestant = Contestant(job, process)
    try:
        contestant.facts = contestant.answer()
        contestant.facts["start_seconds"] = time.perf_counter() - begun
        yield contestant
    finally:
        contestant.stop()


def take_turns(jobs: Sequence[Job], steps: int) -> list[Contestant]:
    """Let contestants take turns, step by step; who is first moves on by one each round.

    Raises:
        ContestantError: one of them ended before its time, or they saw different tokens in a step.
    """
    with ExitStack() as stack:
        running = [stack.enter_context(started(job)) for job in jobs]
        for number in range(steps):
            at = number % len(running)
            for contestant in [*running[at:], *running[:at]]:
                contestant.step()
            seen = [contestant.steps[-1]["tokens"] for contestant in running]
            if len(set(seen)) > 1:
                names = [contestant.job.contestant for contestant in running]
                raise ContestantError(f"The contestants {names} saw different tokens in step {number}: {seen}")
    return running


def start_once(job: Job) -> dict[str, Any]:
    """Let a contestant start and take one step; with an empty store this fills it."""
    with started(replace(job, folder=job.folder + "-first")) as contestant:
        contestant.step()
        return contestant.facts | {"first_step_seconds": contestant.steps[0]["seconds"]}
