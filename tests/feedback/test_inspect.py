import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from kto_lab import cli
from kto_lab.errors import LabError
from kto_lab.feedback.inspect import inspect_feedback
from tests.small_runs import composed, write_jsonl


def thumbs() -> list[dict[str, Any]]:
    """Ten training prompts of two topics with one answer up and two down, and two held-out ones."""
    return [
        {
            "prompt": f"Question {number}",
            "completion": f"answer {answer}" * (answer + 1),
            "label": answer == 0,
            "topic": "sums" if number % 2 else "words",
            "split": "train" if number < 10 else "test",
        }
        for number in range(12)
        for answer in range(3)
    ]


def inspect(folder: Path, *words: str, rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """What the command writes into `folder`/out about a file of thumbs."""
    file = write_jsonl(folder / "thumbs.jsonl", rows if rows is not None else thumbs())
    own = [f"feedback.path={file}", "feedback.columns.group=topic", "feedback.columns.split=split"]
    cfg = composed(["feedback=file", *own, f"output={folder / 'out'}", *words], name="inspect")
    return json.loads((inspect_feedback(cfg) / "inspect.json").read_text())


def test_the_command_writes_shows_and_names_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["feedback=arithmetic", "feedback.train_prompts=50", "corruption=label_noise", "corruption.rate=0.2"]
    monkeypatch.setattr(sys, "argv", ["kto-lab", "feedback", "inspect", *words, "output=here"])
    cli.main()
    assert sorted(file.name for file in (tmp_path / "here").iterdir()) == ["inspect.json", "inspect.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["here"]
    height, width, _ = matplotlib.image.imread(tmp_path / "here" / "inspect.png").shape
    assert min(height, width) > 700
    said = capsys.readouterr().out
    numbers = json.loads((tmp_path / "here" / "inspect.json").read_text())
    assert "here/inspect.json" in said and "here/inspect.png" in said
    assert numbers["changes"][0]["touched"] in said
    advice = [*numbers["weights"]["training"], numbers["weights"]["importance"]]
    assert len(advice) == 4 and all(item["override"] in said for item in advice)
    assert max(map(len, said.partition("Why:")[2].partition("==> Files")[0].splitlines())) <= 85
    tables = said.partition("==> Table")[2].partition("==> Weights")[0]
    assert max(map(len, tables.splitlines())) <= 80


def test_flips_are_counted_and_only_in_the_training_split(tmp_path: Path) -> None:
    found = inspect(tmp_path, "corruption=label_noise", "corruption.rate=0.2")
    assert found["before"]["flips"]["rate_down"] == 0 and found["before"]["flips"]["rate_up"] == 0
    assert found["after"]["flips"] == {
        "kept_up": 8,
        "flipped_down": 2,
        "flipped_up": 4,
        "kept_down": 16,
        "rate_down": 0.2,
        "rate_up": 0.2,
    }
    assert found["changes"][0]["flipped_to_desirable"] == 4 and found["changes"][0]["flipped_to_undesirable"] == 2
    assert found["after"]["classes"]["desirable"] == 12
    assert found["test"]["classes"] == {
        "examples": 6,
        "desirable": 2,
        "undesirable": 4,
        "share": 1 / 3,
        "ratio": 0.5,
    }
    assert found["configuration"]["corruption"]["rate"] == 0.2


def test_removed_examples_are_gone_from_the_table_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(tmp_path, "corruption=imbalance", "corruption.keep_desirable=0.5")
    assert found["before"]["classes"]["desirable"] == 10 and found["after"]["classes"]["desirable"] == 5
    assert found["before"]["pairs"] == 10 and found["after"]["pairs"] == 5
    assert found["after"]["prompts"]["only_undesirable"] == 5
    assert found["weights"]["training"][0]["lambda_desirable"] == 4.0, "of the counts after corruption"
    assert found["weights"]["deployment_share"] == 1 / 3, "of the counts before it"
    assert found["weights"]["importance"]["target"] == pytest.approx(0.5)
    assert "30 -> 25 examples, 10 -> 5 desirable" in capsys.readouterr().out


def test_swaps_of_pairs_are_counted_and_leave_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(tmp_path, "corruption=pair_swaps", "corruption.rate=0.3")
    assert found["pair_swaps"] == {"pairs": 10, "swapped": 3, "noise": {"swapped": 0.3, "same": 0.0}}
    assert found["before"] == found["after"]
    assert "3 of 10 pairs are swapped" in capsys.readouterr().out


def test_given_pairs_are_counted_with_what_noise_leaves_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked = [("Apple.", "Rock."), ("Pear.", "Apple."), ("Plum.", "Stone.")]
    rows = [{"prompt": "Name a fruit.", "chosen": up, "rejected": down, "split": "train"} for up, down in ranked]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    columns = "{prompt: prompt, completion: null, label: null, chosen: chosen, rejected: rejected, split: split}"
    words = ["feedback=file", f"feedback.path={path}", f"feedback.columns={columns}", f"output={tmp_path / 'out'}"]
    noise = ["corruption=label_noise", "corruption.rate=0.34"]
    found = json.loads((inspect_feedback(composed([*words, *noise], name="inspect")) / "inspect.json").read_text())
    assert found["before"]["given"] == {"whole": 3, "agreeing": 0, "alone": 0, "won_and_lost": 1}
    assert found["before"]["pairs"] == 3
    after = found["after"]["given"]
    # One thumb of each class is flipped: of two pairs a half each, or both halves of one.
    assert after["whole"] + after["agreeing"] == 3 and after["agreeing"] in (0, 2) and after["alone"] == 0
    said = capsys.readouterr().out
    assert "answers that won here and lost there" in said and "pairs swapped, by the clean labels" in said


def test_several_corruptions_are_listed_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["corruption=compose", "corruption@corruption.first=imbalance", "corruption@corruption.second=label_noise"]
    found = inspect(tmp_path, *words, "corruption.first.keep_undesirable=0.5", "corruption.second.rate=0.5")
    assert [change["name"] for change in found["changes"]] == ["imbalance", "label_noise"]
    said = capsys.readouterr().out
    assert said.index("1. imbalance") < said.index("2. label_noise")


def test_without_corruption_there_is_one_training_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(tmp_path)
    assert found["changes"] == [] and found["pair_swaps"] is None
    assert found["before"] == found["after"]
    said = capsys.readouterr().out
    assert "train before" not in said and "train after" not in said


def test_without_held_out_prompts_the_training_split_is_shown(tmp_path: Path) -> None:
    found = inspect(tmp_path, rows=[row for row in thumbs() if row["split"] == "train"])
    assert found["test"] is None and found["after"]["classes"]["examples"] == 30


def test_one_class_has_no_weights_and_no_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(tmp_path, rows=[row for row in thumbs() if row["label"]])
    assert found["weights"] is None and found["after"]["pairs"] == 0
    assert found["after"]["lengths"]["undesirable"] is None and found["after"]["classes"]["ratio"] is None
    assert "one class only" in capsys.readouterr().out


def test_deployments_ratio_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(tmp_path, "deployment_ratio=0.9")
    assert found["weights"]["importance"]["target"] == pytest.approx(9)
    assert found["weights"]["recommended_for_deployment"] == found["weights"]["training"][-1]
    assert "outside the range" in capsys.readouterr().out


def test_flips_of_one_class_leave_a_ratio_for_deployment(tmp_path: Path) -> None:
    rows = [row for row in thumbs() if row["label"]]
    found = inspect(tmp_path, "corruption=label_noise", "corruption.rate=0.2", rows=rows)
    assert found["weights"]["deployment_share"] == 0.8


def test_an_inspection_is_not_overwritten(tmp_path: Path) -> None:
    inspect(tmp_path)
    before = (tmp_path / "out" / "inspect.json").read_bytes()
    with pytest.raises(LabError, match="out holds an inspection"):
        inspect(tmp_path, "corruption=label_noise", "corruption.rate=0.5")
    assert (tmp_path / "out" / "inspect.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+corruption.foo=1"], "There is no key 'corruption.foo'"),
        (["+judge=reward"], "Nothing reads the configuration's judge"),
        (["output=???"], "Not set: output"),
        (["deployment_ratio=1"], "deployment_ratio is 1; it is the share"),
        (["deployment_ratio=4:1"], "deployment_ratio is '4:1'; it must be a number"),
    ],
)
def test_a_configuration_that_does_not_fit_is_said(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        inspect(tmp_path, *words)
    assert not (tmp_path / "out").exists()


def test_no_training_example_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="into the train split"):
        inspect(tmp_path, rows=[row for row in thumbs() if row["split"] == "test"])
    assert not (tmp_path / "out").exists()


def test_an_example_is_shown_as_a_model_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chats = [
        {
            "prompt": [{"role": "user", "content": f"Say\n{number}."}],
            "completion": "a <|im_end|> \x1b[31m b",
            "label": up,
            "topic": "any",
            "split": "train",
        }
        for number, up in enumerate((True, False))
    ]
    numbers = inspect(tmp_path, "model=tiny", "example=1", rows=chats)
    said = capsys.readouterr().out.partition("==> Example")[2]
    shown = "<|im_start|>user\u23ce\nSay\u23ce\n1.<|im_end|>\u23ce\n<|im_start|>assistant\u23ce\n"
    assert f"{shown}\u27e6a <|im_end|> \ufffd[31m b<|im_end|>\u27e7" in said
    assert f"{tmp_path / 'thumbs.jsonl'}:2, undesirable: " in said and "\x1b" not in said
    example = numbers["example"]
    assert example["trained"] == "a <|im_end|> \x1b[31m b<|im_end|>"
    # The end that is trained is a token; the one in the answer is letters.
    assert example["trained_ids"][-1] == 0 and example["trained_ids"].count(0) == 1
    assert f"{len(example['trained_ids'])} tokens trained" in said


def test_what_a_template_does_with_every_answer_is_said_beside_the_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|><think>\\n' }}{% endif %}"
    )
    chats = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in thumbs()]
    inspect(tmp_path, "model=tiny", f"model.chat_template={template}", rows=chats)
    said = " ".join(capsys.readouterr().out.split())
    assert r"the generation prompt ends with '<think>\n', which the template leaves out" in said
    assert r"an answer without reasoning begins with '\n</think>\n\n'" in said


def test_an_example_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="example is 99; the training split has the examples 0 to 29"):
        inspect(tmp_path, "model=tiny", "example=99")
