import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from kto_lab.errors import LabError
from kto_lab.feedback import collect as module
from kto_lab.feedback.checkers import arithmetic_checks, ifeval_checks
from kto_lab.feedback.collect import SAMPLED, WORKED, Sampling, collect
from kto_lab.feedback.prompts import CheckedPrompt
from kto_lab.models.generate import Answer
from kto_lab.models.tokens import Encoder
from tests.damage import DAMAGES
from tests.small_tokenizers import dated

SAMPLING = Sampling(
    samples=2, worked_samples=1, temperature=1.0, max_new_tokens=5, batch_tokens=100, block=2, seed=0, threshold=0.0
)
SHOWN = ({"role": "user", "content": "Say blue."}, {"role": "assistant", "content": "Blue it is"})


def chat(text: str, *, worked: bool) -> CheckedPrompt:
    prompt = [{"role": "user", "content": text}]
    return CheckedPrompt(prompt, ifeval_checks(("punctuation:no_comma", {})), "g", SHOWN if worked else ())


PROMPTS = [chat("Say red.", worked=True), *(chat(f"Say {n}.", worked=n == 3) for n in range(5))]


@pytest.fixture
def gather(model: LlamaForCausalLM, encoder: Encoder, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def call(folder: str = "shards", sampling: Sampling = SAMPLING, **changes: Any) -> list[dict[str, Any]]:
        given = {"encoder": encoder, "prompts": PROMPTS, "provenance": {"name": "tiny"}, **changes}
        asking, prompts = given.pop("encoder"), given.pop("prompts")
        return collect(model, asking, prompts, sampling, tmp_path / folder, **given)

    return call


def test_each_prompt_has_its_answers_in_order_and_the_worked_example_is_not_in_the_row(
    gather: Callable[..., list[dict[str, Any]]],
) -> None:
    done: list[int] = []
    rows = gather(advance=done.append)
    assert done == [2, 2, 2]
    sampled = [row for row in rows if row["origin"] == SAMPLED]
    worked = [row for row in rows if row["origin"] == WORKED]
    assert [row["prompt"] for row in sampled] == [item.prompt for item in PROMPTS for _ in range(2)]
    assert [row["prompt"] for row in worked] == [item.prompt for item in PROMPTS if item.worked]
    assert not any("blue" in json.dumps(row["prompt"]).lower() for row in rows)
    assert all(row["desirable"] == (row["score"] == 1.0) for row in rows)


def test_the_worked_example_is_shown_to_the_model_before_the_prompt(
    gather: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def generate(model: Any, encoder: Any, prompts: Any, *, samples: int, **rest: Any) -> list[list[Answer]]:
        asked.extend(prompts)
        return [[Answer("fine", (1,), True, 0)] * samples for _ in prompts]

    monkeypatch.setattr(module, "generate", generate)
    gather()
    assert [*SHOWN, *PROMPTS[0].prompt] in asked
    assert len(asked) == len(PROMPTS) + 2


def test_an_interrupted_collection_goes_on_and_gives_the_same_rows(
    gather: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gather("undisturbed")
    calls = 0

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(advance=stop)
    assert [file.name for file in (tmp_path / "shards").glob("shard-*")] == ["shard-00000.json"]
    real = module._collect_block

    def counted(*given: Any, **rest: Any) -> list[dict[str, Any]]:
        nonlocal calls
        calls += 1
        return real(*given, **rest)

    monkeypatch.setattr(module, "_collect_block", counted)
    assert gather() == whole
    assert calls == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": dataclasses.replace(SAMPLING, temperature=0.5)},
        {"prompts": PROMPTS[:-1]},
        {"provenance": {"name": "another model"}},
        {"encoder": Encoder(dated())},
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    changes: dict[str, Any], gather: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    gather()
    before = {file.name: file.read_bytes() for file in (tmp_path / "shards").iterdir()}
    with pytest.raises(LabError, match="another model, tokenizer or chat template, other prompts or other settings"):
        gather(**changes)
    assert {file.name: file.read_bytes() for file in (tmp_path / "shards").iterdir()} == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shards_are_collected_again_and_a_damaged_claim_is_refused(
    damage: str,
    gather: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = gather()
    DAMAGES[damage](tmp_path / "shards" / "shard-00001.json")
    assert gather() == whole
    assert capsys.readouterr().out.count("shard-00001.json is damaged") == 1
    assert gather() == whole
    assert not capsys.readouterr().out
    DAMAGES[damage](tmp_path / "shards" / "collection.json")
    with pytest.raises(LabError, match=r"collection\.json is damaged.*remove the folder"):
        gather()


@pytest.mark.parametrize(
    ("checks", "text", "desirable"),
    [
        (arithmetic_checks("2"), " 2", True),
        (arithmetic_checks("2"), "3", False),
        ('{"checker": "sentiment"}', "I love it", True),
        ('{"checker": "sentiment"}', "I hate it", False),
        ('{"checker": "sentiment"}', "A fine day, I suppose", False),
    ],
)
def test_the_thumb_is_the_pass_or_a_sentiment_above_the_threshold(
    checks: str,
    text: str,
    desirable: bool,
    gather: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        module,
        "generate",
        lambda *given, samples, **rest: [[Answer(text, (1, 2), False, 2)] * samples for _ in given[2]],
    )
    sampling = dataclasses.replace(SAMPLING, threshold=0.5)
    rows = gather(sampling=sampling, prompts=[CheckedPrompt("1+1=", checks, "sum")])
    assert [row["desirable"] for row in rows] == [desirable] * 2
    assert not any(row["finished"] for row in rows)


@pytest.mark.parametrize(
    ("name", "value"), [("samples", 0), ("block", 0), ("worked_samples", -1), ("temperature", 0.0)]
)
def test_numbers_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(LabError, match=f"sampling.{name} is {value}"):
        dataclasses.replace(SAMPLING, **{name: value})
