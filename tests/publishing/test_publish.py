"""`kto-lab publish`: the files of a finished run's policy, its model card, and what is refused."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.repocard import metadata_load
from hydra.core.global_hydra import GlobalHydra

from kto_lab.errors import LabError
from kto_lab.publishing import card, hub, repeating
from kto_lab.publishing.card import Told, model_card
from kto_lab.publishing.command import publish
from kto_lab.runs.identity import plain_values, settings
from kto_lab.runs.record import read_record
from kto_lab.sealed import SUMS, DamagedError, check_sums
from tests.small_runs import composed, instead, run

# Answers are greedy, and long enough to end.
RUN = ["evaluation=tiny", "evaluation.prompts=6", "evaluation.max_new_tokens=4", "evaluation.reward_examples=8"]
RUN += ["evaluation.kl_prompts=2", "evaluation.lm_eval=[]", "optimization.max_steps=2", "model.weights=arithmetic"]


@pytest.fixture(autouse=True)
def no_hydra_left() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the whole tiny policy."""
    return run(tmp_path_factory.mktemp("finished"), *RUN, "corruption=label_noise", "corruption.rate=0.2")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that saved an adapter alone."""
    return run(tmp_path_factory.mktemp("adapted"), *RUN, "adapter=lora")


def published(run_folder: Path, to: Path, *words: str) -> Path:
    return Path(publish(composed(instead([f"run={run_folder}", f"to={to}"], *words), name="publish")))


def test_the_policy_is_published_as_it_was_judged(finished: Path, tmp_path: Path) -> None:
    to = published(finished, tmp_path / "policy")
    check_sums(to, "")
    for file in (finished / "policy").iterdir():
        if file.name != SUMS:
            assert (to / file.name).read_bytes() == file.read_bytes()
    assert {"README.md", "model.safetensors", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= {
        file.name for file in to.iterdir()
    }


def test_its_greedy_answers_are_those_of_the_run(finished: Path, tmp_path: Path) -> None:
    to = published(finished, tmp_path / "policy")
    answers = json.loads((finished / "evaluation" / "trained.json").read_text())["answers"]
    asked = tmp_path / "prompts.json"
    asked.write_text(json.dumps([answer["prompt"] for answer in answers]))
    # In a process of its own, as a reader of the card would: from the folder, without kto-lab.
    code = (
        "import json, sys; from pathlib import Path; from transformers import pipeline\n"
        "answer = pipeline('text-generation', model=sys.argv[1])\n"
        "prompts = json.loads(Path(sys.argv[2]).read_text())\n"
        "found = answer(prompts, do_sample=False, return_full_text=False, max_new_tokens=4)\n"
        "print(json.dumps([one[0]['generated_text'] for one in found])); assert 'kto_lab' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(to), str(asked)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert len(answers) == 6
    assert json.loads(done.stdout.splitlines()[-1]) == [answer["answer"] for answer in answers]


def test_the_card_is_valid_and_says_what_the_record_says(finished: Path, tmp_path: Path) -> None:
    to = published(finished, tmp_path / "policy", "license=apache-2.0", "dataset=me/sums", "title=Sums")
    data = metadata_load(to / "README.md")
    assert data is not None
    assert data["license"] == "apache-2.0" and data["datasets"] == ["me/sums"] and "base_model" not in data
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "text-generation"
    found = ModelCard.load(to / "README.md")
    record = read_record(finished)
    results = {result.metric_type: result for result in found.data.eval_results or ()}
    accuracy = record["metrics"]["rewards"]["reward_accuracy"]
    assert results["reward_accuracy"].metric_value == pytest.approx(accuracy["value"], abs=1e-6)
    assert f"95 % interval {accuracy['low']:.4g} to {accuracy['high']:.4g}" in results["reward_accuracy"].metric_name
    text = found.text
    train = record["data"]["counts"]["train"]
    assert f"| train | {train['examples']} | {train['prompts']} | {train['desirable']} |" in text
    assert "lambda_D (1 - v(beta (r - z0)))" in text and "arXiv 2402.01306" in text
    assert f"{record['training']['lambda_desirable']:.4g}" in text
    assert "corrupted on purpose (`" in text
    assert "| what is published here | apache-2.0 |" in text and "| the data | unknown |" in text
    assert str(tmp_path) not in text and str(finished.parent) not in text


def test_the_tables_of_the_card_are_whole(finished: Path, tmp_path: Path) -> None:
    import markdown

    text = ModelCard.load(published(finished, tmp_path / "policy") / "README.md").text
    html = markdown.markdown(text, extensions=["tables", "fenced_code"])
    # Every line with a bar is a row of a table, and none is left as text.
    assert html.count("<table>") == 8
    assert not [line for line in html.splitlines() if line.startswith(("|", "<p>|"))]


def test_the_command_of_the_card_makes_the_same_run(finished: Path) -> None:
    record = read_record(finished)
    line = repeating.command(record["config"])
    assert line is not None and line.startswith("kto-lab train model=tiny ")
    assert "feedback.path=thumbs.jsonl" in line and "corruption=label_noise" in line
    again = settings(plain_values(composed(shlex.split(line)[2:])))
    before = settings(record["config"])
    assert {key for key in again if again[key] != before[key]} == {"feedback.path"}


def test_a_run_that_no_options_make_is_repeated_by_its_configuration(finished: Path) -> None:
    record = read_record(finished)
    record["config"]["loss"]["function"] = "my_losses.mine"
    assert "loss.function=my_losses.mine" in str(repeating.command(record["config"]))
    record["config"]["loss"]["own"] = 1
    assert repeating.command(record["config"]) is None
    text = model_card(record, Told("Mine", "me/mine"), adapter=False, chat=True)
    assert "function: my_losses.mine" in text and "its equation is with whoever wrote it" in text


def test_a_run_without_an_evaluation_says_so(finished: Path) -> None:
    record = {**read_record(finished), "metrics": {}}
    text = model_card(record, Told("Mine", "me/mine"), adapter=False, chat=True)
    assert "This run measured nothing" in text and "model-index" not in text


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ({"name": "me/base", "commit": "0" * 40}, "me/base"),
        ({"name": "base"}, None),
        ({"name": "SmolLM2, dequantised", "upstream": "..."}, card.SMOLLM2_HUB),
    ],
)
def test_the_base_is_named_where_it_came_from_the_hub(model: dict[str, Any], known: str | None) -> None:
    assert card.base_of({"model": model}, Told("Mine", "me/mine")) == known
    assert card.base_of({"model": model}, Told("Mine", "me/mine", base_model="you/base")) == "you/base"


def test_an_adapter_names_its_base_on_the_hub(adapted: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"base_model=owner/name.*adapter\.merge=true"):
        published(adapted, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
    to = published(adapted, tmp_path / "policy", "base_model=me/base")
    assert json.loads((to / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/base"
    data = metadata_load(to / "README.md")
    assert data is not None and data["base_model"] == "me/base" and data["base_model_relation"] == "adapter"
    assert data["library_name"] == "peft" and (to / "adapter_model.safetensors").is_file()


def test_a_damaged_policy_is_not_published(finished: Path, tmp_path: Path) -> None:
    weights = finished / "policy" / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DamagedError, match=r"model\.safetensors is damaged"):
            published(finished, tmp_path / "policy")
    finally:
        weights.write_bytes(whole)
    assert not (tmp_path / "policy").exists()


def test_what_a_person_put_into_the_folder_stays_there(finished: Path, tmp_path: Path) -> None:
    note = finished / "policy" / "note.txt"
    note.write_text("private")
    try:
        assert not (published(finished, tmp_path / "policy") / "note.txt").exists()
    finally:
        note.unlink()


def test_a_dry_run_writes_nothing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = published(finished, tmp_path / "policy", "dry_run=true")
    said = capsys.readouterr().out
    assert not to.exists() and "model.safetensors" in said and "# policy" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["to=hub"], "to=hub needs repo=owner/name"),
        (["to=hub", "repo=mine"], "to=hub needs repo=owner/name"),
        (["repo=me/mine"], "is for to=hub"),
        (["license='Apache 2'"], "as the hub names licences"),
        (["base_model=/home/me/base"], "base_model is '/home/me/base'; it is a name on the hub"),
        (["run=nowhere"], "There is no folder nowhere"),
        (["to=hub", "repo=me/mine"], "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_refused(finished: Path, tmp_path: Path, words: list[str], told: str) -> None:
    with pytest.raises(LabError, match=told):
        published(finished, tmp_path / "policy", *words)


def test_a_refusal_without_words_is_told_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise HfHubHTTPError("", response=httpx.Response(500, request=httpx.Request("POST", "http://hub")))

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(LabError, match=r"The hub refused me/mine: HfHubHTTPError\. Mend that"):
        hub.upload(tmp_path, "me/mine", private=True)


def test_nothing_is_overwritten(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nothing there is overwritten"):
        published(finished, tmp_path)
