import gzip
import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback import movie_ratings
from kto_lab.feedback.corruption import (
    label_noise_disagreeing_raters,
    label_noise_one_rater,
    label_noise_simulated_rater,
)
from kto_lab.feedback.movie_ratings import from_ratings, read_ratings, split_text
from kto_lab.feedback.table import of_split
from kto_lab.feedback.table_numbers import class_counts

MOVIES = "movieReviewSnippets"
AMAZON = "amazonReviewSnippets"
TWEETS = "tweets"
DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "conf/feedback/movie_ratings.yaml").read_text())

TEXTS: dict[str, list[tuple[str, list[int], float | None]]] = {
    MOVIES: [
        ("The plot is a  delight.", [3, 2, -1, 4], None),
        ("The plot is a muddle from start to end.", [-3, -2, 0, -1], None),
        ("The pace drags and drags.", [-1, 1, -4, -2], None),
        ("A warm, funny film.", [2, 2, 3, 0], None),
        ("Neither good nor bad, it is there.", [1, -1, 2, -2], None),
        ("Almost nothing happens here.", [0, 1, 0, 0], None),
        ("Superb!", [4, 4, 4, 4], None),
    ],
    AMAZON: [("The pace of delivery was slow.", [-2, -2], None), ("It works well enough.", [1, 2], None)],
    TWEETS: [("what a day this is", [2, 2], None), ("late again, of course", [-1, -1], 1.5)],
}


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue())


def archive_of(
    folder: Path, texts: dict[str, list[tuple[str, list[int], float | None]]], raw: str | None = None
) -> Path:
    """An archive in the published layout: line ends, byte order mark and tabs included."""
    members: dict[str, bytes] = {"../outside.txt": b"must never be written"}
    for source, rows in texts.items():
        truth, ratings = [], []
        for number, (text, given, stated) in enumerate(rows, start=1):
            mean = sum(given) / len(given) if stated is None else stated
            truth.append(f"{number}\t{mean:.9f}\t{text}")
            ratings.append(f"{number}\t{mean:.9f}\t0.5\t{raw or json.dumps(given)}")
        members[f"hutto_ICWSM_2014/{source}_GroundTruth.txt"] = "\r\n".join(truth).encode("utf-8-sig")
        # The two files list the texts in different orders.
        members[f"hutto_ICWSM_2014/{source}_anonDataRatings.txt"] = "\r\n".join(reversed(ratings)).encode()
    path = folder / movie_ratings.FILENAME
    path.write_bytes(tar({movie_ratings.INNER: tar(members)}))
    return path


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = archive_of(tmp_path, TEXTS)

    def fetch(requirement: str, filename: str, sha256: str, *, source: bool) -> Path:
        assert requirement == "vaderSentiment==3.3.2" and source and len(sha256) == 64
        return path

    monkeypatch.setattr(movie_ratings, "fetch_from_registry", fetch)
    return path


def table_of(**changes: Any) -> Dataset:
    return from_ratings(**{**{key: value for key, value in DEFAULTS.items() if key != "_target_"}, **changes})


def texts(table: Dataset) -> list[str]:
    return [prompt + completion for prompt, completion in zip(table["prompt"], table["completion"], strict=True)]


def dissent_of(table: Dataset, raters: int) -> list[bool]:
    return list(label_noise_disagreeing_raters(table, raters=raters).table["desirable"])


def test_split_text_loses_nothing() -> None:
    assert split_text("The plot is a  delight.", 4) == ("The plot is a", "  delight.")
    assert split_text("one  two\tthree", 2) == ("one  two", "\tthree")
    assert split_text("one two", 2) is None


def test_single_raters(archive: Path) -> None:
    table = table_of(max_ratings_per_text=100)
    assert set(texts(table)) == {text for text, ratings, _ in TEXTS[MOVIES][:4]}
    first = [row for row in table if row["prompt"] + row["completion"] == "The plot is a  delight."]
    assert [(row["rater"], row["score"], row["desirable"]) for row in first] == [
        ("0", 3.0, True),
        ("1", 2.0, True),
        ("2", -1.0, False),
        ("3", 4.0, True),
    ]
    assert all(row["desirable_clean"] for row in first)
    assert all(row["ratings"] == [3.0, 2.0, -1.0, 4.0] for row in first), "each knows all ratings, in order"
    # Of 16 ratings two are 0.
    assert len(table) == 14
    assert set(table["group"]) == {MOVIES} and set(table["origin"]) == {"human"}
    assert json.loads(table["checks"][0]) == {"checker": "sentiment"}


def test_consensus(archive: Path) -> None:
    table = table_of(label="consensus")
    assert table["desirable"] == table["desirable_clean"] == [True, False, False, True]
    assert table["score"] == [2.0, -1.5, -1.5, 1.75]
    assert table["rater"] == [None] * 4
    assert table["ratings"] == [[float(rating) for rating in ratings] for _, ratings, _ in TEXTS[MOVIES][:4]]


def test_noise_of_raters_applies_to_the_consensus(archive: Path) -> None:
    """Of the four texts the third has one rating of 1 against -7, and the first -1 against 9."""
    table = table_of(label="consensus")
    assert dissent_of(table, raters=1) == [False, False, True, True]
    assert dissent_of(table, raters=2) == dissent_of(table, raters=4) == [True, False, False, True]
    single = [label_noise_one_rater(table, share=1.0, seed=seed).table["desirable"][:] for seed in range(40)]
    assert {tuple(labels) for labels in single} == {(a, False, b, True) for a in (True, False) for b in (True, False)}
    exact = label_noise_simulated_rater(table, reliability=1.0, boundary=0.0, seed=0)
    assert exact.table["desirable"] == table["desirable"]


def test_simulated_raters_need_the_scores_of_the_consensus(archive: Path) -> None:
    with pytest.raises(LabError, match=r"2 of 14 scores lie on corruption.*feedback\.label=consensus"):
        label_noise_simulated_rater(table_of(max_ratings_per_text=100), reliability=0.5, boundary=0.0, seed=0)


def test_margin_and_counts(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert len(table_of(label="consensus", margin=0.0)) == 5
    assert f"{MOVIES}: left out 1 texts that have no word after the first 2" in caplog.text
    assert "left out 1 texts that have a mean rating of 0" in caplog.text
    assert len(table_of(label="consensus", margin=1.6)) == 2


def test_draws_are_deterministic_and_nested(archive: Path) -> None:
    small, large = table_of(limit=2, seed=5), table_of(limit=3, seed=5)
    assert set(texts(small)) < set(texts(large)) and len(small) == 2
    assert small["example_id"] == table_of(limit=2, seed=5)["example_id"]
    one, two = table_of(), table_of(max_ratings_per_text=2)
    assert set(one["example_id"]) < set(two["example_id"]) and (len(one), len(two)) == (4, 8)


def test_texts_whose_ratings_differ_from_the_mean_are_left_out(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert [rated.text for rated in read_ratings(archive, TWEETS)] == ["what a day this is"]
    assert "tweets: left out 1 texts that have ratings that differ from their stated mean" in caplog.text


def test_whole_sources_are_held_out(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = table_of(held_out_sources=[AMAZON], held_out=0.0)
    assert set(of_split(table, "test")["group"]) == {AMAZON}
    assert set(of_split(table, "train")["group"]) == {MOVIES}
    # "The pace" starts a text of each source, and the held-out one wins.
    assert class_counts(table)["train"]["examples"] == 3 and class_counts(table)["test"]["examples"] == 2
    assert f"{MOVIES}: left out 1 texts that share their prompt with a held-out source" in caplog.text


def test_nothing_is_unpacked(archive: Path) -> None:
    table_of()
    assert list(archive.parent.iterdir()) == [archive]
    assert not (archive.parent.parent / "outside.txt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ["imdb"]}, "no source 'imdb'"),
        ({"sources": []}, "at least one source"),
        ({"held_out_sources": [MOVIES]}, "named twice"),
        ({"label": "mean"}, "must be 'rater' or 'consensus'"),
        ({"label": "consensus", "max_ratings_per_text": 2}, "must be 1"),
        ({"margin": -1.0}, "must not be negative"),
        ({"prompt_words": 0}, "prompt_words is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"margin": 5.0}, "no example"),
    ],
)
def test_impossible_settings(archive: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        table_of(**changes)


def test_a_damaged_archive(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"anonDataRatings.txt:1: the ratings are 'lots'"):
        read_ratings(archive_of(tmp_path, {TWEETS: TEXTS[TWEETS][:1]}, raw="lots"), TWEETS)
    with pytest.raises(LabError, match=r"cannot be read.*fetch it again"):
        read_ratings(archive_of(tmp_path, {}), TWEETS)
    with pytest.raises(LabError, match=r"GroundTruth.txt:1: there are 4 fields, expected 3"):
        read_ratings(archive_of(tmp_path, {TWEETS: [("a\tb", [1], None)]}), TWEETS)


@pytest.mark.slow
def test_the_published_file() -> None:
    """Needs the package registry, or the file in the cache."""
    table = table_of(limit=None, max_ratings_per_text=1)
    assert len(table) == 10_007
    noise = sum(a != b for a, b in zip(table["desirable"], table["desirable_clean"], strict=True)) / len(table)
    assert 0.02 < noise < 0.06
    archive = movie_ratings.fetch_from_registry(
        movie_ratings.REQUIREMENT, movie_ratings.FILENAME, movie_ratings.SHA256, source=True
    )
    usable = {source: len(read_ratings(archive, source)) for source in movie_ratings.SOURCES}
    assert usable == {MOVIES: 10_605, AMAZON: 3_708, "nytEditorialSnippets": 5_190, TWEETS: 4_200 - 199}
