from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kto_lab.errors import LabError
from kto_lab.runs.scores import KEPT, PUBLISHED, TEST, VALIDATION, half_of, prompt_scores, scores_in, write_scores
from kto_lab.sealed import read_json, write_json
from tests.damage import DAMAGES, flip
from tests.reports.study_folders import draw, write_run


def test_scores_of_single_prompts_are_those_of_the_answers(tmp_path: Path) -> None:
    write_run(tmp_path, 0, [1.0, 0.0, 1.0])
    assert prompt_scores(tmp_path, "pass_rate") == {"p0": 1.0, "p1": 0.0, "p2": 1.0}
    assert prompt_scores(tmp_path, "answer_length") == {"p0": 10.0, "p1": 11.0, "p2": 12.0}
    assert prompt_scores(tmp_path, "finished") == {"p0": 1.0, "p1": 1.0, "p2": 1.0}
    assert prompt_scores(tmp_path, "kl") is None
    assert prompt_scores(tmp_path / "no-such-run", "pass_rate") is None


def test_a_published_run_has_the_scores_of_its_study(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0, [1.0, 0.0])
    write_scores(tmp_path / "published", {"abc": tmp_path / "run"})
    assert prompt_scores(tmp_path / "published" / "cells" / "abc", "pass_rate") == {"p0": 1.0, "p1": 0.0}
    assert prompt_scores(tmp_path / "published" / "cells" / "def", "pass_rate") is None
    # Beside runs of a study of one's own.
    assert scores_in(tmp_path)("published/cells/abc", "pass_rate") == {"p0": 1.0, "p1": 0.0}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_published_scores_are_said_to_be(damage: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0, [1.0, 0.0] * 2000)
    write_scores(tmp_path / "published", {"abc": tmp_path / "run"})
    DAMAGES[damage](tmp_path / "published" / PUBLISHED)
    with pytest.raises(LabError, match=r"scores\.parquet is damaged"):
        prompt_scores(tmp_path / "published" / "cells" / "abc", "pass_rate")


def test_a_run_that_was_made_again_is_read_again(tmp_path: Path) -> None:
    write_run(tmp_path, 0, [1.0])
    assert prompt_scores(tmp_path, "pass_rate") == {"p0": 1.0}
    write_run(tmp_path, 0, [0.0])
    assert prompt_scores(tmp_path, "pass_rate") == {"p0": 0.0}
    flip(tmp_path / KEPT)
    with pytest.raises(LabError, match=r"scores\.json is damaged.*Remove it, and the report goes without"):
        prompt_scores(tmp_path, "pass_rate")


def test_a_prompt_without_a_check_has_no_score(tmp_path: Path) -> None:
    write_run(tmp_path, 0, [1.0, 0.0])
    found = read_json(tmp_path / KEPT, "")
    del found["pass_rate"]["p1"]
    write_json(tmp_path / KEPT, found)
    assert prompt_scores(tmp_path, "pass_rate") == {"p0": 1.0}
    assert prompt_scores(tmp_path, "finished") == {"p0": 1.0, "p1": 1.0}


def test_the_halves_are_about_even_and_never_change(tmp_path: Path) -> None:
    prompts = [f"p{place}" for place in range(1000)]
    assert 440 < sum(half_of(prompt) == TEST for prompt in prompts) < 560
    # Another hash would show, of a finished study, prompts that chose.
    assert [half_of(prompt)[0] for prompt in prompts[:12]] == list("tttvvvvtvttt")
    write_run(tmp_path / "run", 0, [1.0] * 40)
    validation, test = (scores_in(tmp_path, half)("run", "pass_rate") for half in (VALIDATION, TEST))
    assert validation is not None and test is not None
    assert validation.keys() | test.keys() == set(prompts[:40]) and not validation.keys() & test.keys()
    assert len(scores_in(tmp_path)("run", "pass_rate") or {}) == 40


@pytest.mark.parametrize("shuffled", [False, True])
def test_published_scores_are_those_of_the_answers_whatever_the_order_of_their_rows(
    tmp_path: Path, shuffled: bool
) -> None:
    runs = {f"run{seed}": tmp_path / f"run{seed}" for seed in range(3)}
    for seed, folder in enumerate(runs.values()):
        write_run(folder, seed, draw(0.5, seed, prompts=20 + seed))
    kept = {
        (name, metric, half): scores_in(tmp_path, half)(name, metric)
        for name in [*runs, "none"]
        for metric in ("pass_rate", "answer_length", "kl")
        for half in (None, VALIDATION, TEST)
    }
    write_scores(tmp_path, runs)
    if shuffled:
        table = pq.read_table(tmp_path / PUBLISHED)
        pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), tmp_path / PUBLISHED)
    assert {key: scores_in(tmp_path, key[2])(key[0], key[1]) for key in kept} == kept
    assert len(kept["run2", "pass_rate", None] or {}) == 22 and kept["none", "pass_rate", None] is None


def test_a_study_without_any_score_is_published_too(tmp_path: Path) -> None:
    write_scores(tmp_path, {"run": tmp_path / "run"})
    assert scores_in(tmp_path)("run", "pass_rate") is None
