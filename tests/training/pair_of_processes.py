"""Several runs in a row, in each of two processes that talk over gloo: what `test_distributed.py` starts."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """A run of `kto-lab train`.

    Attributes:
        words: its command line.
        nan_at: the optimiser step (from 1) at which its loss is not finite; None for none.
        measured: a file for what the first process finds of the trained policy while it is in shards.
    """

    words: list[str]
    nan_at: int | None = None
    measured: str | None = None


def run_as_pair(jobs: list[Job], folder: Path, *, timeout: float) -> str:
    """Run jobs one after the other in two processes, and return what the first of them said.

    They are started as a cluster would start them. With Lightning's own launcher the second one would die with the
    first run that fails.
    """
    plan = folder / "jobs.json"
    plan.write_text(json.dumps([asdict(job) for job in jobs]))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    logs = [folder / f"process_{rank}.txt" for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, str(plan)],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**shared, "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
                )
            )
    try:
        codes = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = [log.read_text() for log in logs]
    assert codes == [0, 0], "\n".join(said)
    return said[0]


def measured(policy: Any, prompts: int) -> dict[str, Any]:
    """Sampled answers to a few prompts, one at a time, and their log-probabilities."""
    from kto_lab.models.generate import generate
    from kto_lab.models.logps import score
    from kto_lab.models.sequences import Tokens
    from kto_lab.models.tiny import byte_tokenizer
    from kto_lab.models.tokens import Encoder

    encoder = Encoder(byte_tokenizer())
    asked = [f"{number}+{number}=" for number in range(prompts)]
    found = generate(policy, encoder, asked, max_new_tokens=6, temperature=1.0, batch_tokens=1)
    sequences = [Tokens(encoder.prompt(prompt), answer.tokens) for prompt, (answer,) in zip(asked, found, strict=True)]
    logps = score(policy, sequences, pad_id=encoder.pad_id, token_budget=1)
    return {"answers": [list(answer.tokens) for (answer,) in found], "logps": logps.tolist()}


def _run(job: Job) -> None:
    from torch.distributed.tensor import DTensor

    from kto_lab.evaluation import evaluate
    from kto_lab.runs import command
    from kto_lab.runs import train as run_module
    from kto_lab.training import reference
    from kto_lab.training.module import AlignmentModule, NotFiniteError
    from tests.small_runs import composed

    whole, scored = AlignmentModule.losses, reference.score_and_keep

    def telling(what: str) -> Callable[..., Any]:
        def tell(model: Any, *arguments: Any, **named: Any) -> Any:
            in_shards = isinstance(next(model.parameters()), DTensor)
            print(f"the {what} is {'in shards' if in_shards else 'whole'}")
            return scored(model, *arguments, **named)

        return tell

    def breaking(self: AlignmentModule, *arguments: Any) -> Any:
        found = whole(self, *arguments)
        return found * float("nan") if self.trainer.global_step + 1 == job.nan_at else found

    gather = run_module.gathered

    def after_measuring(sharded: Any, empty: Any, *, first: bool) -> Any:
        if job.measured is not None:
            # The processes have as many prompts as they like.
            found = measured(sharded, prompts=3 if first else 1)
            if first:
                Path(job.measured).write_text(json.dumps(found))
        return gather(sharded, empty, first=first)

    # Takes longer than such a run.
    command.plot_curves = lambda *_: None  # type: ignore[assignment]
    AlignmentModule.losses = breaking  # type: ignore[method-assign]
    reference.score_and_keep, run_module.gathered = telling("reference"), after_measuring
    evaluate.score_and_keep = telling("evaluated model")
    try:
        command.train(composed(job.words))
        assert job.nan_at is None
    except NotFiniteError:
        assert job.nan_at is not None
    finally:
        AlignmentModule.losses = whole  # type: ignore[method-assign]
        reference.score_and_keep, run_module.gathered = scored, gather
        evaluate.score_and_keep = scored


if __name__ == "__main__":
    for settings in json.loads(Path(sys.argv[1]).read_text()):
        _run(Job(**settings))
