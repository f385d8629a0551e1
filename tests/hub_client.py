"""What a person does with a hub, in a process of its own: the clients read HF_ENDPOINT when they are imported.

Prints what came of it as one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset
from huggingface_hub import constants
from hydra.utils import instantiate

from kto_lab.errors import LabError
from kto_lab.models.load import hf
from tests.documented import run_command
from tests.small_runs import composed

CHUNK = 1024
NAMES = {"gated": "org/gated", "missing": "org/nothing", "good": "org/name"}
TRAIN = ["scale=tiny", "model=hf", "model.name=org/name", "feedback=hub", "feedback.name=org/data", "trainer=cpu"]
TRAIN += ["optimization.max_steps=2", "optimization.batch_size=4", "reference_store=none"]
TRAIN += ["evaluation.prompts=4", "evaluation.reward_examples=8", "evaluation.kl_prompts=2"]


def model(name: str, revision: str | None = None) -> dict[str, str]:
    return hf(name, dtype="float32", attention="sdpa", revision=revision).provenance


def data(name: str, revision: str | None = None) -> Dataset:
    words = ["feedback=hub", f"feedback.name={name}", f"feedback.revision={revision or 'null'}"]
    return instantiate(composed(words).feedback)


def told(read: object, *what: str) -> str:
    """What a person is told."""
    try:
        read(*what)  # type: ignore[operator]
    except Exception as error:
        # Hydra wraps what a target raises.
        cause = error if isinstance(error, LabError) else error.__cause__
        assert isinstance(cause, LabError), repr(error)
        return str(cause)
    raise AssertionError(f"{what} was read")


def visit(folder: Path) -> dict[str, object]:
    """All of it; files go into `folder`."""
    found: dict[str, object] = {
        f"{what} {kind}": told(read, NAMES[what])
        for kind, read in (("model", model), ("dataset", data))
        for what in ("gated", "missing")
    }
    found["revision of model"] = told(model, "org/name", "v9")
    found["revision of dataset"] = told(data, "org/data", "v9")
    with pytest.MonkeyPatch.context() as patch:
        # The client waits between its tries.
        patch.setattr(time, "sleep", lambda _: None)
        # ... and keeps what has come in whole chunks, which are larger than the files here.
        patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
        found["cut"] = told(model, "org/name")
        found["resumed"] = model("org/name")["weights"]
        run_command(["train", *TRAIN, f"run_dir={folder / 'run'}"], patch)
        publish = ["publish", f"run={folder / 'run'}", "to=hub"]
        run_command([*publish, "repo=me/mine", "license=apache-2.0"], patch)
        run_command([*publish, "repo=me/mine"], patch)
        found["published"] = model("me/mine")
        with pytest.raises(AssertionError):
            run_command([*publish, "repo=you/mine"], patch)
    return found


if __name__ == "__main__":
    print(json.dumps(visit(Path(sys.argv[1]))))
