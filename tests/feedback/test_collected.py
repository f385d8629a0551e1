from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.table import build_table, is_chat, of_split
from kto_lab.feedback.table_numbers import fingerprint


@pytest.fixture
def table() -> Dataset:
    rows = ({"prompt": f"{n}+1=", "completion": str(n + k), "desirable": k == 1} for n in range(40) for k in range(2))
    return build_table(rows, source="sums", held_out=0.3)


@pytest.fixture
def file(table: Dataset, tmp_path: Path) -> str:
    pq.write_table(table.data.table, tmp_path / "sums.parquet")
    return str(tmp_path / "sums.parquet")


def test_a_table_reads_back_as_it_was_written(file: str, table: Dataset) -> None:
    found = from_collected(file, None)
    assert found.features == table.features
    assert found.to_list() == table.to_list()


def test_a_flipped_bit_in_a_table_that_a_command_wrote_is_found(table: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "sums.parquet"
    pq.write_table(table.data.table, file, write_page_checksum=True)
    whole = file.read_bytes()
    for place in range(4, len(whole) // 2, 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = from_collected(str(file), None)
        except LabError as error:
            assert "sums.parquet is no table of examples" in str(error), place
        else:
            assert found.to_list() == table.to_list(), place


def test_the_shipped_table_is_whole_and_has_both_classes() -> None:
    shipped = from_collected("instruction_checks", None)
    assert is_chat(shipped)
    assert len(set(shipped["prompt_id"])) > 590
    assert len(set(shipped["example_id"])) == len(shipped)
    assert set(shipped["split"]) == {"train", "test"}
    assert 0.2 < sum(shipped["desirable"]) / len(shipped) < 0.8
    assert all(shipped["checks"])


def test_fewer_training_prompts_lie_within_more_and_the_test_split_stays_whole(file: str, table: Dataset) -> None:
    some, more, all_of_them = (from_collected(file, count) for count in (5, 12, 1000))
    small, large = set(of_split(some, "train")["prompt_id"]), set(of_split(more, "train")["prompt_id"])
    assert (len(small), len(large)) == (5, 12)
    assert small < large
    assert len(of_split(some, "train")) == 10, "each prompt keeps both of its answers"
    for part in (some, more, all_of_them):
        assert of_split(part, "test").to_list() == of_split(table, "test").to_list()
    assert fingerprint(all_of_them) == fingerprint(table)


def test_too_few_training_prompts_are_refused(file: str) -> None:
    with pytest.raises(LabError, match=r"feedback\.train_prompts is 0"):
        from_collected(file, 0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"There is no file .*none\.parquet.*instruction_checks"):
        from_collected(str(tmp_path / "none.parquet"), None)


def test_a_file_that_is_no_table_of_examples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("prompt,label\n")
    pq.write_table(pa.table({"prompt": ["1+1="], "label": [True]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"question": ["1+1="]}), tmp_path / "alien.parquet")
    for name in ("text", "other", "alien"):
        with pytest.raises(LabError, match=rf"{name}\.parquet is no table of examples: .*feedback=file"):
            from_collected(str(tmp_path / f"{name}.parquet"), None)


def test_all_raters_thumbs_are_kept_where_the_file_has_them(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1=", "completion": "2", "desirable": True, "ratings": [1.0, -1.0, 1.0]}]
    pq.write_table(build_table(rows, source="sums", held_out=0.0).data.table, tmp_path / "sums.parquet")
    assert from_collected(str(tmp_path / "sums.parquet"), None)["ratings"][:] == [[1.0, -1.0, 1.0]]
