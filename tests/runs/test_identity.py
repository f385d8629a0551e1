"""The identity of a run: what changes the result changes it, and nothing else does."""

import io
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from kto_lab import hashing
from kto_lab.errors import LabError
from kto_lab.feedback.rows import files
from kto_lab.models.tiny import byte_tokenizer
from kto_lab.runs import identity as identity_module
from kto_lab.runs.claim import claim
from kto_lab.runs.identity import RUN, differing, identify, stamp
from tests.small_runs import composed, configuration, overrides, thumbs, write_jsonl

# What a record says of a model, as far as it identifies an unfinished run.
MODEL = {"weights": "w", "tokenizer": "a", "chat_template": "b", "reference": {"weights": "r"}}


def run_id(cfg: DictConfig) -> str:
    return identify(cfg).run_id


@pytest.mark.parametrize(
    "words",
    [
        "seed=1",
        "loss.beta=0.2",
        "loss=dpo",
        "corruption=label_noise",
        "optimization.max_steps=3",
        "trainer.precision=bf16",
    ],
)
def test_what_can_change_the_result_changes_it(tmp_path: Path, words: str) -> None:
    assert run_id(configuration(tmp_path, words)) != run_id(configuration(tmp_path))


@pytest.mark.parametrize("words", ["run_dir=elsewhere", "runs_dir=elsewhere", "logger=wandb", "trainer.devices=1"])
def test_what_cannot_does_not(tmp_path: Path, words: str) -> None:
    assert run_id(configuration(tmp_path, words)) == run_id(configuration(tmp_path))


def test_a_limit_of_time_does_not(tmp_path: Path) -> None:
    model = [word for word in overrides(tmp_path, "model=hf") if word != "model.weights=random"]
    one, other = (composed([*model, "model.name=mine", f"model.template_seconds={limit}"]) for limit in (1, 2))
    assert run_id(one) == run_id(other)


def test_it_sees_what_is_in_the_files_and_not_when_they_were_written(tmp_path: Path) -> None:
    before = run_id(configuration(tmp_path))
    write_jsonl(tmp_path / "thumbs.jsonl", thumbs())
    assert run_id(configuration(tmp_path)) == before
    write_jsonl(tmp_path / "thumbs.jsonl", thumbs()[:-1])
    assert run_id(configuration(tmp_path)) != before


def test_it_sees_what_a_glob_matches_what_a_list_names_and_what_is_piped_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()
    part = tmp_path / "shards" / "a.jsonl"
    write_jsonl(part, thumbs(2))

    def ids() -> list[str]:
        paths = (f"'{tmp_path}/shards/*.jsonl'", f"[{part},{part}]", "'-'")
        return [run_id(configuration(tmp_path, f"feedback.path={path}")) for path in paths]

    def piped(text: str) -> None:
        files.standard_input.cache_clear()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        files.standard_input()

    piped("a")
    before = ids()
    assert len(set(before)) == 3 and before == ids()
    write_jsonl(part, thumbs(3))
    piped("b")
    assert not set(before) & set(ids())
    assert stamp(Path("model.*")) == stamp(Path(str(tmp_path / "gone*.jsonl"))) == ""


def test_one_of_several_chat_templates_counts(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "one"}
    tokenizer.save_pretrained(tmp_path)
    before = stamp(tmp_path)
    tokenizer.chat_template["tool_use"] = "another"
    tokenizer.save_pretrained(tmp_path)
    assert stamp(tmp_path) != before


def test_it_sees_what_is_in_the_files_of_lm_evals_tasks(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\n")
    words = f"evaluation.lm_eval=[{tmp_path / 'own.yaml'}]"
    before = run_id(configuration(tmp_path, words))
    (tmp_path / "own.yaml").write_text("task: own\nnum_fewshot: 2\n")
    assert run_id(configuration(tmp_path, words)) != before


def test_it_sees_what_is_in_the_folder_of_a_judge(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    words = ["judge@evaluation.judge=reward", f"evaluation.judge.model={tmp_path / 'judge'}"]
    before = run_id(configuration(tmp_path, *words))
    (tmp_path / "judge" / "config.json").write_text("{}")
    assert run_id(configuration(tmp_path, *words)) != before


def test_it_sees_what_a_task_file_includes_and_calls(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("include: shared\nprocess: !function helpers.score\n")
    (tmp_path / "shared").write_text("task: own\n")
    (tmp_path / "helpers.py").write_text("def score(x): return x\n")
    found = {stamp(tmp_path / "own.yaml")}
    (tmp_path / "shared").write_text("task: other\n")
    found.add(stamp(tmp_path / "own.yaml"))
    (tmp_path / "helpers.py").write_text("def score(x): return -x\n")
    found.add(stamp(tmp_path / "own.yaml"))
    (tmp_path / "unrelated.py").write_text("")
    assert len(found) == 3 and stamp(tmp_path / "own.yaml") in found


def test_a_file_elsewhere_is_the_same_file(tmp_path: Path) -> None:
    before = run_id(configuration(tmp_path))
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "thumbs.jsonl").rename(tmp_path / "moved" / "thumbs.jsonl")
    assert run_id(configuration(tmp_path, f"feedback.path={moved}")) == before


def test_large_files_count_by_their_content_and_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity_module, "READ_UP_TO", 10)
    one, other = tmp_path / "one.bin", tmp_path / "other.bin"
    one.write_bytes(b"x" * 20)
    other.write_bytes(b"x" * 20)
    os.utime(other, ns=(1, 1))
    assert stamp(one) == stamp(other) != ""
    # By another process, too.
    hashing._remembered.cache_clear()
    monkeypatch.setattr(hashing, "sha256_file", lambda path: pytest.fail(f"{path} is read again"))
    assert stamp(one) == stamp(other)


def test_the_parts_say_what_they_are_of(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    words = ["model=hf", f"model.name={tmp_path / 'weights'}"]
    line = [word for word in overrides(tmp_path, *words) if not word.startswith("model.weights")]
    found = identify(composed(line))
    assert list(found.data) == ["feedback.path"] and list(found.model) == ["model.name"]
    assert {RUN, "kto_lab.losses", "kto_lab.feedback.file", "kto_lab.models.load"} <= found.code.keys()
    # Of what another run instantiates nothing.
    assert not {"kto_lab.feedback.hub", "kto_lab.judging.reward"} & found.code.keys()


def test_a_loss_of_ones_own_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text("from kto_lab.losses import sft\n\ndef mine(batch): return sft(batch)\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = identify(configuration(tmp_path, "loss=sft", "loss.function=my_losses.mine"))
    (tmp_path / "my_losses.py").write_text("from kto_lab.losses import sft\n\ndef mine(batch): return -sft(batch)\n")
    after = identify(configuration(tmp_path, "loss=sft", "loss.function=my_losses.mine"))
    assert differing(before.code, after.code) == ["my_losses"]
    assert (before.configuration, before.data, before.model) == (after.configuration, after.data, after.model)


def test_an_unfinished_run_does_not_go_on_with_other_code(tmp_path: Path) -> None:
    cfg = configuration(tmp_path)
    found = identify(cfg)
    claim(tmp_path / "run", cfg, found, "fingerprint", MODEL, first=True)
    other = replace(found, code={**found.code, RUN: "another"})
    with pytest.raises(LabError, match=rf"other code \({RUN}\)"):
        claim(tmp_path / "run", cfg, other, "fingerprint", MODEL, first=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weights": "x"}, "other weights of the model"),
        ({"reference": {"weights": "x"}}, "other weights of the reference"),
        ({}, None),
    ],
)
def test_an_unfinished_run_does_not_go_on_with_other_weights(
    changed: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    cfg = configuration(tmp_path)
    found = identify(cfg)
    claim(tmp_path / "run", cfg, found, "fingerprint", MODEL, first=True)
    with pytest.raises(LabError, match=f"unfinished run with {said}") if said else nullcontext():
        claim(tmp_path / "run", cfg, found, "fingerprint", MODEL | changed, first=True)
