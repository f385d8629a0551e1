from pathlib import Path
from typing import Any

import datasets
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from kto_lab.errors import LabError
from kto_lab.feedback.table import is_chat
from kto_lab.feedback.table_numbers import class_counts

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def source(option: str, *overrides: str) -> datasets.Dataset:
    """The table of a config option as a run makes it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(f"feedback/{option}", overrides=[f"feedback.{override}" for override in overrides])
    try:
        return instantiate(config.feedback)
    except InstantiationException as error:
        # Hydra wraps what a target raises; the person is shown the cause.
        raise error.__cause__ or error from None


def preset(option: str, *overrides: str) -> datasets.Dataset:
    """The table of a preset, read from a fixture in the data set's schema in place of the hub."""
    return source(option, "name=json", "split=train", f"data_files={FIXTURES / option}.jsonl", *overrides)


def triples(table: datasets.Dataset) -> list[tuple[Any, ...]]:
    return list(zip(table["prompt"], table["completion"], table["desirable"], strict=True))


def test_ultrafeedback_binarized(caplog: pytest.LogCaptureFixture) -> None:
    table = preset("ultrafeedback_binarized")
    fruit, hello = (
        [{"role": "user", "content": text}] for text in ("Name a fruit that is yellow.", "Say hello in one word.")
    )
    assert triples(table) == [
        (fruit, "A banana.", True),
        (fruit, "A plum.", False),
        (hello, "Hello!", True),
        (hello, "Well, there are many words for it.", False),
    ]
    assert table["score"] == [9.0, 2.5, 7.0, 4.0]
    assert "dropped 1 of 3 rows" in caplog.text and "row 2: the completion is empty" in caplog.text


def test_hh_rlhf(caplog: pytest.LogCaptureFixture) -> None:
    table = preset("hh_rlhf")
    rain = [{"role": "user", "content": "Where does rain come from?"}]
    cat = [
        {"role": "user", "content": "I have a cat."},
        {"role": "assistant", "content": "How old is it?"},
        {"role": "user", "content": "Two.\n\nWhat does it eat?"},
    ]
    assert triples(table) == [
        (rain, "From clouds.", True),
        (rain, "No idea.", False),
        (cat, "Cat food.\n\nAnd water.", True),
        (cat, "Stones.", False),
    ]
    assert "dropped 2 of 4 rows" in caplog.text and "ends with the assistant's turn; this one is not" in caplog.text


def test_hh_rlhf_errors_are_not_dropped_unless_asked() -> None:
    with pytest.raises(LabError, match=r"json\[train\], row 3: "):
        preset("hh_rlhf", "bad_rows=error")


def test_shp() -> None:
    table = preset("shp")
    bread, beans = ([{"role": "user", "content": t}] for t in ("Why did my bread not rise?", "When do I plant beans?"))
    assert triples(table) == [
        (bread, "Bad luck.", False),
        (bread, "The yeast was too old.", True),
        (beans, "After the last frost.", True),
        (beans, "Any time.", False),
    ]
    assert table["score"] == [4.0, 40.0, 30.0, 10.0]
    assert set(table["group"]) == {"askbaking_train", "askgarden_train"}
    assert len(preset("shp", "min_certainty=1.0")) == 6


def test_kto_mix_14k(caplog: pytest.LogCaptureFixture) -> None:
    table = preset("kto_mix_14k")
    assert is_chat(table)
    assert table["completion"] == ["Red and blue.", "Red.", "It is 4."]
    assert table["desirable"] == [True, False, True]
    assert [message["role"] for message in table["prompt"][2]] == ["user", "assistant", "user"]
    assert "dropped 1 of 4 rows" in caplog.text


def test_a_draw_is_part_of_a_larger_one() -> None:
    ids = [set(preset("kto_mix_14k", f"limit={n}", "bad_rows=drop", "seed=3")["example_id"]) for n in (2, 3, 9)]
    assert ids[0] <= ids[1] <= ids[2] and len(ids[2]) == 3
    with pytest.raises(LabError, match=r"feedback\.limit is 0"):
        preset("kto_mix_14k", "limit=0")


def test_held_out_prompts_do_not_depend_on_the_draw() -> None:
    table = preset("shp", "min_certainty=1.0", "held_out=0.5")
    counts = class_counts(table)
    assert sum(count["examples"] for count in counts.values()) == 6
    assert all(count["desirable"] == count["undesirable"] for count in counts.values())


def test_no_network_and_no_such_dataset() -> None:
    with pytest.raises(
        LabError, match=r"'nobody/nothing' is not in the cache, and HF_HUB_OFFLINE is set.*feedback\.name"
    ):
        source("hub", "name=nobody/nothing")
    with pytest.raises(LabError, match=r"was not found.*feedback\.data_files"):
        source("hub", "name=json", "data_files=/absent.jsonl")


def test_a_wrong_split_is_named() -> None:
    with pytest.raises(LabError, match=r"cannot be read.*feedback\.split"):
        preset("kto_mix_14k", "split=validation")


def test_file_option_reads_through_the_config(tmp_path: Path) -> None:
    file = tmp_path / "thumbs.csv"
    file.write_text("question,completion,label\nHi?,Hello.,1\nHi?,No.,0\n")
    table = source("file", f"path={file}", "columns.prompt=question", "labels={1: true, 0: false}")
    assert table["desirable"] == [True, False]
