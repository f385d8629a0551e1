"""Models and data of a hub: the real clients against a server that speaks the hub's protocol."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from kto_lab.errors import LabError
from kto_lab.models.load import hf
from kto_lab.models.reading import weights_digest
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.runs.record import read_record
from tests.documented import ROOT
from tests.hub_client import CHUNK
from tests.hub_server import TOKEN, Hub, serving
from tests.small_runs import thumbs, write_jsonl

WEIGHTS = "model.safetensors"
# A client asks for a file once, and five times more where nothing comes.
TRIES = 6


@dataclass(frozen=True)
class Visit:
    """What a client found, and what it left."""

    found: dict[str, object]
    hub: Hub
    folder: Path
    errors: str


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """A hub with a tiny model and a data set, and what became of them in a process that reads, trains and publishes."""
    folder = tmp_path_factory.mktemp("hub")
    model, data = folder / "model", folder / "data"
    tokenizer = byte_tokenizer()
    random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64).save_pretrained(model)
    tokenizer.save_pretrained(model)
    data.mkdir()
    write_jsonl(
        data / "train.jsonl", [{key: row[key] for key in ("prompt", "completion", "label")} for row in thumbs()]
    )
    with serving() as hub:
        for name, gated in (("org/name", False), ("org/gated", True)):
            hub.put("models", name, model, gated=gated)
        for name, gated in (("org/data", False), ("org/gated", True)):
            hub.put("datasets", name, data, gated=gated)
        hub.cut, hub.cuts = WEIGHTS, TRIES
        own = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN}
        done = subprocess.run(
            [sys.executable, "-m", "tests.hub_client", str(folder)],
            env={**os.environ, **own, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return Visit(json.loads(done.stdout.splitlines()[-1]), hub, folder, done.stderr)


@pytest.mark.parametrize(("kind", "page", "key"), [("model", "", "model"), ("dataset", "datasets/", "feedback")])
def test_what_cannot_be_had_is_said_with_what_to_do(visit: Visit, kind: str, page: str, key: str) -> None:
    found, address = visit.found, visit.hub.address
    token = "give a token of that account with HF_TOKEN, or by `hf auth login`."
    assert found[f"gated {kind}"] == (
        f"The {kind} 'org/gated' is gated: accept its licence at {address}/{page}org/gated, and {token}"
    )
    assert found[f"missing {kind}"] == (
        f"There is no {kind} 'org/nothing' at {address}, or it is private: check {key}.name, and for a private one "
        f"{token}"
    )
    assert f"no such revision; {address}/{page}org/" in str(found[f"revision of {kind}"])
    assert str(found[f"revision of {kind}"]).endswith(f"Mend {key}.revision.")


def test_a_download_that_broke_off_is_never_used(visit: Visit) -> None:
    told = str(visit.found["cut"])
    assert "'org/name' could not be fetched from" in told and "one that broke off is never used" in told
    assert visit.found["resumed"] == weights_digest(visit.folder / "model")
    kept = (visit.folder / "model" / WEIGHTS).stat().st_size // 2 // CHUNK * CHUNK
    # Each try but the first began where the one before had ended; the next load began anew.
    assert visit.hub.cuts == 0 and visit.hub.ranges == [f"{WEIGHTS} {kept}"] * (TRIES - 1)


def test_a_model_and_data_of_the_hub_train(visit: Visit) -> None:
    record = read_record(visit.folder / "run")
    assert record["training"]["steps"] == 2 and record["model"]["name"] == "org/name"
    assert record["model"]["commit"] == visit.hub.repositories["models", "org/name"].commit
    counts = record["data"]["counts"]
    assert sum(counts[split]["examples"] for split in ("train", "test")) == len(thumbs())


def test_what_is_published_can_be_read_back(visit: Visit) -> None:
    mine, run = visit.hub.repositories["models", "me/mine"], visit.folder / "run"
    assert mine.private and mine.files[WEIGHTS] == (run / "policy" / WEIGHTS).read_bytes()
    published = visit.found["published"]
    assert isinstance(published, dict) and published["commit"] == mine.commit
    assert published["weights"] == weights_digest(run / "policy")
    card = ModelCard(mine.files["README.md"].decode())
    assert card.data.base_model == "org/name" and card.data.datasets == ["org/data"]
    # Published twice: the second time with nothing said of a licence.
    assert card.data.license == "unknown"
    assert "license: unknown" in str(card) and 'pipeline("text-generation", model="me/mine")' in card.text


def test_another_owner_is_refused(visit: Visit) -> None:
    assert ("models", "you/mine") not in visit.hub.repositories
    assert "The hub lets nobody but you write to you/mine: give a token of that account" in visit.errors


def test_without_the_network_and_not_in_the_cache() -> None:
    with pytest.raises(LabError, match=r"'org/nowhere' is not in the cache, and HF_HUB_OFFLINE is set: unset it.*"):
        hf("org/nowhere", dtype="float32", attention="sdpa")
