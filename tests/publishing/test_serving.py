"""A published policy, asked through an OpenAI-compatible server, gives the greedy answers that its run has kept."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from hydra.core.global_hydra import GlobalHydra
from transformers.utils.import_utils import is_serve_available

from kto_lab.publishing.command import publish
from tests.small_runs import composed, run, thumbs, write_jsonl

pytestmark = pytest.mark.slow

TOKENS = 8
RUN = ["evaluation=tiny", "evaluation.prompts=6", f"evaluation.max_new_tokens={TOKENS}", "evaluation.lm_eval=[]"]
RUN += ["evaluation.reward_examples=0", "evaluation.kl_prompts=0", "optimization.max_steps=4"]
RUN += ["model.weights=arithmetic"]
# Each serves the folder that follows, in the format that its weights are saved in.
SERVERS = {
    "transformers": pytest.param(
        ["transformers", "serve", "--device", "cpu"],
        marks=pytest.mark.skipif(not is_serve_available(), reason="transformers[serving] is not installed"),
        id="transformers",
    ),
    "vllm": pytest.param(
        ["vllm", "serve", "--dtype", "float32"],
        marks=pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
        id="vllm",
    ),
}


@pytest.fixture(scope="module", params=["text", "conversation"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A published policy, and the answers that its run has kept."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "conversation":
        rows = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in thumbs()]
        write_jsonl(folder / "thumbs.jsonl", rows)
    finished = run(folder, *RUN)
    to = publish(composed([f"run={finished}", f"to={folder / 'policy'}"], name="publish"))
    GlobalHydra.instance().clear()
    return Path(to), json.loads((finished / "evaluation" / "trained.json").read_text())["answers"]


@pytest.mark.parametrize("server", SERVERS.values())
def test_the_greedy_answers_of_a_server_are_those_of_the_run(
    server: list[str], served: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    policy, answers = served
    with answering(server, policy, tmp_path / "log") as client:
        found = [asked(client, str(policy), answer["prompt"]) for answer in answers]
    assert found == [answer["answer"] for answer in answers]
    assert len(found) == 6 and len(set(found)) > 1


def asked(client: httpx.Client, model: str, prompt: str | list[dict[str, str]]) -> str:
    """The greedy answer to a prompt."""
    settings = {"model": model, "temperature": 0, "max_tokens": TOKENS}
    if isinstance(prompt, str):
        response = client.post("/v1/completions", json={**settings, "prompt": prompt})
    else:
        response = client.post("/v1/chat/completions", json={**settings, "messages": prompt})
    assert response.is_success, response.text
    choice = response.json()["choices"][0]
    return str(choice["text"] if isinstance(prompt, str) else choice["message"]["content"])


@contextmanager
def answering(server: list[str], policy: Path, log: Path) -> Iterator[httpx.Client]:
    """A client of a server that has loaded a policy, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = shutil.which(server[0], path=str(Path(sys.executable).parent))
    assert program is not None
    words = [program, *server[1:], "--host", "127.0.0.1", "--port", str(port), str(policy)]
    with log.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                while not is_ready(client):
                    if ended(process, within=0.2):
                        pytest.fail(f"the server ended:\n{log.read_text()}")
                yield client
        finally:
            process.terminate()
            process.wait(30)


def is_ready(client: httpx.Client) -> bool:
    """Whether the server answers."""
    try:
        return client.get("/health").is_success
    except httpx.ConnectError:
        return False


def ended(process: subprocess.Popen[bytes], *, within: float) -> bool:
    """Whether a process ends within some seconds."""
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True
