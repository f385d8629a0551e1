"""The identity of a run: what changes the result changes it, and nothing else does."""

from pathlib import Path

import pytest
from tests.small_runs import configuration, thumbs, write_jsonl

from kto_lab.models.tiny import byte_tokenizer
from kto_lab.runs import identity as identity_module
from kto_lab.runs.identity import code_version, run_id, stamp


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


def test_it_sees_what_is_in_the_files_and_not_when_they_were_written(tmp_path: Path) -> None:
    before = run_id(configuration(tmp_path))
    write_jsonl(tmp_path / "thumbs.jsonl", thumbs())
    assert run_id(configuration(tmp_path)) == before
    write_jsonl(tmp_path / "thumbs.jsonl", thumbs()[:-1])
    assert run_id(configuration(tmp_path)) != before


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


def test_code_counts_and_words_about_it_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses").mkdir()
    monkeypatch.setattr(identity_module, "ROOMS", ("losses",))
    monkeypatch.setattr(identity_module.importlib.resources, "files", lambda package: tmp_path)

    def version_of(text: str) -> str:
        (tmp_path / "losses" / "kto.py").write_text(text)
        code_version.cache_clear()
        return code_version()

    plain = version_of("def f(x):\n    return x + 1\n")
    assert plain == version_of('"""About it."""\n\ndef f(x):\n    """Adds."""\n    return x + 1  # one\n')
    assert plain != version_of("def f(x):\n    return x + 2\n")
    monkeypatch.undo()
    code_version.cache_clear()
