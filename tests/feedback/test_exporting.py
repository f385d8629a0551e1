"""`kto-lab feedback export`: what each tool gets, and that it reads back as the same table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from omegaconf import OmegaConf

from kto_lab.errors import LabError
from kto_lab.feedback.exporting import export_feedback
from kto_lab.feedback.exporting_formats import BESIDE, FORMATS
from kto_lab.feedback.pairs import make_pairs
from kto_lab.feedback.table import build_table, of_split
from kto_lab.importing.exports.argilla import ArgillaExport
from kto_lab.importing.thumbs import Row
from kto_lab.keys import EXPORT
from tests.feedback.reading import read, settings

MORE = {name: name for name in BESIDE}


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def thumbs(*, text: bool = False) -> list[dict[str, Any]]:
    """Six prompts, with an answer up and one down each."""
    return [
        {
            "prompt": f"Question {number}" if text else chat(f"Question {number}"),
            "completion": f"{'Good' if up else 'Bad'} «{number}»",
            "desirable": up,
            "rater": f"r{number % 2}",
            "score": 5.0 if up else None,
            "timestamp": f"2026-01-0{number + 1}T00:00:00Z",
            "group": f"g{number % 2}",
            "finished": number != 3,
            "split": "test" if number == 5 else "train",
        }
        for number in range(6)
        for up in (True, False)
    ]


def pairs() -> list[dict[str, Any]]:
    return [
        {**row, "pair_id": f"p{number // 2}", "score": 4.0 if row["desirable"] else 2.0, "finished": True}
        for number, row in enumerate(thumbs())
    ]


def exported(folder: Path, examples: list[dict[str, Any]], format: str, /, **changes: Any) -> tuple[Dataset, Path]:
    """The table of rows, and the folder that it was written to."""
    source = folder / "source.json"
    source.write_text(json.dumps(examples))
    node = {"_target_": f"{__name__}.made", "path": str(source)}
    given = {"feedback": node, "format": format, "rows": None, "seed": 0, "output": str(folder / "out"), **changes}
    assert set(given) == set(EXPORT)
    return made(str(source)), export_feedback(OmegaConf.create(given))


def made(path: str) -> Dataset:
    return build_table(json.loads(Path(path).read_text()), source="made", held_out=0.5)


def back(folder: Path, columns: Mapping[str, str], **changes: Any) -> Dataset:
    return concatenate_datasets([read(folder / name, columns, **changes) for name in sorted(files(folder))])


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.stem in ("train", "test")}


def content(table: Dataset, *names: str) -> list[Any]:
    rows = [{name: row[name] for name in names} for row in table]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


COMMON = ("prompt", "prompt_id", "completion", "desirable")
HELD = (*COMMON, *(name for name in BESIDE if name != "checks"))


@pytest.mark.parametrize(
    ("format", "preset", "changes"),
    [
        ("trl", {"format": "trl"}, {}),
        ("halos", {"format": "halos"}, {"score": "score"}),
        ("llama_factory", {"format": "sharegpt"}, {}),
    ],
)
def test_thumbs_come_back_as_they_were(
    tmp_path: Path, format: str, preset: dict[str, Any], changes: dict[str, str]
) -> None:
    table, folder = exported(tmp_path, thumbs(), format)
    suffix = FORMATS[format].suffix
    assert files(folder) == {f"train{suffix}", f"test{suffix}"}
    columns = {name: column for name, column in {**MORE, **changes}.items() if name != "checks"}
    again = back(folder, columns, **preset)
    assert content(again, *HELD, "example_id") == content(table, *HELD, "example_id")


def test_a_table_of_texts_stays_one_where_the_tool_has_texts(tmp_path: Path) -> None:
    table, folder = exported(tmp_path, thumbs(text=True), "trl")
    assert content(back(folder, {"split": "split"}, format="trl"), *COMMON) == content(table, *COMMON)
    row = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert (row["prompt"], row["completion"], row["label"]) == ("Question 0", "Good «0»", True)


@pytest.mark.parametrize("format", ["halos", "llama_factory", "openai", "argilla"])
def test_a_text_becomes_a_user_message_where_the_tool_has_only_those(
    tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = exported(tmp_path, thumbs(text=True), format)
    assert "each becomes a user message" in capsys.readouterr().out
    written = "".join(file.read_text() for file in folder.rglob("*.json*"))
    assert '"Question 0"' in written and ('"user"' in written or '"human"' in written)


@pytest.mark.parametrize(
    ("format", "preset"), [("trl", "trl"), ("halos", "halos"), ("llama_factory", "sharegpt"), ("openai", "openai")]
)
def test_given_pairs_come_back_as_pairs(tmp_path: Path, format: str, preset: str) -> None:
    table, folder = exported(tmp_path, pairs(), format)
    known = {} if format == "openai" else {name: name for name in ("rater", "timestamp", "group", "split")}
    again = back(folder, known, format=preset)
    names = COMMON if format == "openai" else (*COMMON, "score", "rater", "timestamp", "group", "split")
    assert content(again, *names) == content(table, *names)
    assert len(set(again["pair_id"])) == 6 and len(make_pairs(again, seed=0)) == 6


def test_pairs_are_those_that_a_run_with_this_seed_sees(tmp_path: Path) -> None:
    rows = [{**row, "prompt": chat("One"), "split": "train"} for row in thumbs()]
    table, folder = exported(tmp_path, rows, "openai", seed=3)
    found = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    texts = table["completion"][:]
    assert [(row["preferred_output"][0]["content"], row["non_preferred_output"][0]["content"]) for row in found] == [
        (texts[up], texts[down]) for up, down in make_pairs(table, seed=3)
    ]
    assert found[0]["input"] == {"messages": chat("One"), "tools": [], "parallel_tool_calls": True}


def test_argilla_reads_the_thumbs_as_suggestions(tmp_path: Path) -> None:
    table, folder = exported(tmp_path, thumbs(), "argilla")
    for split in ("train", "test"):
        told = json.loads((folder / split / ".argilla/settings.json").read_text())
        assert [field["name"] for field in told["fields"]] == ["prompt", "response"]
        changes = {"path": str(folder / split / "records.json"), "suggestions": True}
        reader = ArgillaExport(**settings("export/argilla", changes=changes))
        rows = [thumb for row in reader.read() if isinstance(row, Row) for thumb in row.thumbs]
        assert [(one.prompt, one.completion, one.desirable, one.rater) for one in rows] == [
            (row["prompt"], row["completion"], row["desirable"], row["rater"]) for row in of_split(table, split)
        ]


def test_llama_factory_is_told_of_its_files(tmp_path: Path) -> None:
    _, folder = exported(tmp_path, thumbs(), "llama_factory")
    told = json.loads((folder / "dataset_info.json").read_text())
    assert told["train"] == {
        "file_name": "train.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "kto_tag": "kto_tag"},
    }
    _, folder = exported(tmp_path, pairs(), "llama_factory", output=str(tmp_path / "pairs"))
    told = json.loads((folder / "dataset_info.json").read_text())
    assert told["test"]["ranking"] is True and told["test"]["columns"]["rejected"] == "rejected"


def test_thumbs_without_pairs_and_splits_without_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in thumbs() if row["desirable"] or row["split"] == "train"]
    _, folder = exported(tmp_path, rows, "openai")
    assert files(folder) == {"train.jsonl"} and "test   no pair in 1 examples" in capsys.readouterr().out
    with pytest.raises(LabError, match="There are no pairs"):
        exported(tmp_path, [row for row in rows if row["desirable"]], "openai", output=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists(), "nothing is half written"
    _, folder = exported(tmp_path, pairs(), "trl", rows="thumbs", output=str(tmp_path / "both"))
    assert len((folder / "train.jsonl").read_text().splitlines()) == 10


def test_what_cannot_be_exported_is_said_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for changes, message in (
        ({"output": str(tmp_path / "there")}, "there exists. Choose another output"),
        ({"format": "openai", "rows": "thumbs"}, "format=openai has no thumbs"),
        ({"format": "argilla", "rows": "pairs"}, "format=argilla has no pairs"),
        ({"format": "parquet"}, "format is 'parquet'; it must be"),
    ):
        with pytest.raises(LabError, match=message):
            exported(tmp_path, thumbs(), "trl", **changes)
    assert not (tmp_path / "out").exists()


def test_an_answer_that_was_cut_is_said_to_look_whole_where_the_tool_has_no_word_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path, thumbs(), "openai")
    assert "2 answers were cut, which openai cannot say" in capsys.readouterr().out
    _, folder = exported(tmp_path, [{**row, "finished": True} for row in thumbs()], "trl", output=str(tmp_path / "t"))
    row = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert "finished" not in row and "checks" not in row, "a column that says nothing is not written"


def test_calls_and_tools_are_written_where_the_tool_has_a_place_for_them(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}, "id": "c1"}
    asked = [{"role": "user", "content": "Weather in Oslo?", "tools": tools}]
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    rows = [
        {"prompt": asked, "completion": called, "desirable": True, "pair_id": "p"},
        {"prompt": asked, "completion": "No idea.", "desirable": False, "pair_id": "p"},
    ]
    for format, preset in (("trl", "trl"), ("openai", "openai")):
        table, folder = exported(tmp_path, rows, format, output=str(tmp_path / format))
        again = back(folder, {}, format=preset)
        assert content(again, *COMMON, "message") == content(table, *COMMON, "message")
    only_called = [{**row, "prompt": chat("Weather in Oslo?")} for row in rows]
    only_told = [{**row, "completion": f"Hm {row['desirable']}."} for row in rows]
    for format in ("halos", "llama_factory", "argilla"):
        for examples, key in ((only_called, "tool_calls"), (only_told, "tools")):
            with pytest.raises(LabError, match=f"has a message with '{key}', and {format} has no place for it"):
                exported(tmp_path, examples, format, output=str(tmp_path / format))
        assert not (tmp_path / format).exists()
