"""The benchmark: what it counts and reports; and all contestants, on the tiny policy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from benchmarks import data, floor, gate, generation, large, page, reading, records, steps
from benchmarks.contestants import ENTRY
from benchmarks.jobs import CONTESTANTS, FLOOR, OURS, TRL, TRL_PRECOMPUTED, Job
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.files import write_json
from kto_lab.models.logps import completion_logps
from kto_lab.models.sequences import Tokens

EXAMPLES = [
    {"prompt_ids": [5, 6, 7], "completion_ids": [8, 9, 10, 0]},
    {"prompt_ids": [11, 12], "completion_ids": [13, 0]},
    {"prompt_ids": [20] * 9, "completion_ids": list(range(30, 45))},
]


@pytest.mark.parametrize("packed", [False, True])
def test_floor_is_the_gradient_of_the_log_probabilities(model: LlamaForCausalLM, packed: bool) -> None:
    floor.way(model, torch.device("cpu"), packed=packed, autocast=False)(EXAMPLES)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sequences = [Tokens(tuple(one["prompt_ids"]), tuple(one["completion_ids"])) for one in EXAMPLES]
    (-completion_logps(model, [[one] for one in sequences], pad_id=2).sum()).backward()
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_counter_tells_padding_from_real_ends(model: LlamaForCausalLM) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 0], [5, 6, 0, 0, 0], [5, 0, 6, 7, 7]])
    for feeds_end, padding in ((False, 1 + 3), (True, 0 + 2)):
        counter = gate.Counter(0, feeds_end)
        counter.attach(model)
        model(ids)
        assert counter.read() == {"positions": 15, "padding": padding}
        assert counter.read() == {"positions": 0, "padding": 0}


def test_thumbs_are_the_same_every_time_and_within_their_lengths(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for file in files:
        data.write_thumbs(file, tokenizer, prompts=200, completions=4)
    assert files[0].read_bytes() == files[1].read_bytes()
    *rows, held_out = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert held_out["split"] == "test" and {row["split"] for row in rows} == {"train"}
    assert len(rows) == 800 and sum(row["label"] for row in rows) == 400
    assert len({row["prompt"] for row in rows}) == 200
    lengths = [len(row["completion"]) for row in rows]
    assert max(lengths) <= data.COMPLETIONS.high and 95 < sorted(lengths)[400] < 125


def test_every_group_has_the_floor_and_ours() -> None:
    assert list(steps.groups(CONTESTANTS, 3)) == [[FLOOR, OURS, name] for name in CONTESTANTS[2:]]
    assert list(steps.groups(CONTESTANTS, 5)) == [list(CONTESTANTS)]
    assert list(steps.groups([FLOOR, TRL], 1)) == [[FLOOR, TRL]]
    assert list(steps.groups([FLOOR, OURS], 3)) == [[FLOOR, OURS]]


def test_jobs_travel_as_json() -> None:
    job = Job(TRL, "a", "b", "c", "d", "kto", "lora", "bf16", 2, 8, 512, 2, ("x=1", "y=2"))
    assert Job.from_json(job.as_json()) == job


def test_copied_records_make_a_study_that_reports(tmp_path: Path) -> None:
    records.write_many(tmp_path, 545)
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    study = json.loads((tmp_path / "study.json").read_text())
    choices = [json.dumps(cell["choices"], sort_keys=True) for cell in study["cells"]]
    assert len(choices) == len(set(choices)) == 545, "copies are other seeds"
    for cell in study["cells"]:
        record = json.loads((tmp_path / cell["folder"] / "record.json").read_text())
        assert record["run_id"] == cell["run_id"] and record["seeds"]["seed"] == cell["choices"]["seed"]
    assert set(scores["run"]) == {cell["run_id"] for cell in study["cells"]}


def test_dry_runs_are_read() -> None:
    said = (
        "    2 cells: 1 done, 1 missing\n    missing    ?      0123456789abcdef  arm=kto seed=0\n    done   1 s  fedc"
    )
    assert records.listed(said) == ["0123456789abcdef"]


def contestant(seconds: float, **over: float) -> dict[str, Any]:
    """What `steps.summary` makes of one."""
    return {
        "device": "cpu",
        "seconds": steps.spread([seconds, seconds, seconds]),
        "tokens_per_second": 100 / seconds,
        "over": {name: steps.spread([ratio * 0.9, ratio, ratio * 1.1]) for name, ratio in over.items()},
        "peak_memory": int(seconds * 2**30),
        "peak_memory_cuda": 0,
        "padding": 0.125,
        "positions_per_token": 2.5,
        "start_seconds": 1.0,
        "first_step_seconds": seconds,
    }


def test_page_has_the_numbers_and_says_where_it_was_slower(tmp_path: Path) -> None:
    every = {
        FLOOR: contestant(2, **{OURS: 0.5}) | {"way": "packed, float32", "ways": {"packed, float32": 2.0}},
        OURS: contestant(4, **{FLOOR: 2.0}),
        TRL: contestant(12, **{FLOOR: 6.0, OURS: 3.0}),
        TRL_PRECOMPUTED: contestant(4, **{FLOOR: 2.0, OURS: 1.0}),
    }
    settings = {"model": "tiny", "loss": "kto", "adapter": "none", "precision": "float32", "dataset": "distinct"}
    machine = {"cpu": "A CPU", "cores": 2, "instruction_sets": [], "memory_gib": 8.0, "gpu": None, "load_average": 0.5}
    result = {
        "kind": "steps",
        "machine": machine | {"versions": {"trl": "9.9"}},
        "settings": settings | {"batch": 8, "threads": 2, "warmup": 1, "rounds": 3, "overrides": []},
        "data": {"tokens_a_step": 1500.0, "completion_tokens_a_step": 1000.0},
        "contestants": every,
        "empty_store": {"start_seconds": 2.0, "first_step_seconds": 3.0},
    }
    write_json(tmp_path / "steps.json", result)
    text = page.main(tmp_path).read_text()
    assert "| 2 [1.8, 2.2] | 3 [2.7, 3.3] | 1 [0.9, 1.1] | 3.00 |" in text
    assert "| trl | 12 [12, 12] | 8 | 6 [5.4, 6.6] | 3 [2.7, 3.3] | 12.00 | 12.5% | 2.50 | 13.0 |" in text
    assert "not faster in every round: KTO, full fine-tuning" in text and TRL_PRECOMPUTED in text
    assert "trl 9.9" in text and "A CPU, 2 cores" in text
    assert (tmp_path / page.FIGURE).read_text().startswith("<?xml")


def test_page_shows_what_keys_cost_and_how_fast_answers_come(tmp_path: Path) -> None:
    machine = {"cpu": "A CPU", "cores": 2, "instruction_sets": [], "memory_gib": 8.0, "gpu": None, "versions": {}}
    settings = {"model": "tiny", "loss": "kto", "adapter": "none", "precision": "float32", "dataset": "distinct"}
    tried = [{"setting": "as it comes", "peak GiB": 0.51234}, {"setting": "a.b=1 c=2", "peak GiB": 0.5}]
    write_json(
        tmp_path / "keys.json",
        {
            "kind": "keys",
            "machine": machine,
            "settings": settings | {"batch": 8, "threads": 2, "warmup": 1, "rounds": 3},
            "keys": tried,
        },
    )
    asked = {"model": "tiny", "prompts": 5, "tokens": 6, "rounds": 2}
    rows = [{"": "kto-lab", "tokens": 30}]
    write_json(
        tmp_path / "answers.json", {"kind": "generation", "machine": machine, "settings": asked, "generation": rows}
    )
    text = page.main(tmp_path).read_text()
    assert "| setting | peak GiB |\n|---|---|\n| as it comes | 0.5123 |\n| a.b=1 c=2 | 0.5 |\n" in text
    assert '--rounds 3 --warmup 1 "a.b=1 c=2"`' in text
    assert "|  | tokens |\n|---|---|\n| kto-lab | 30 |" in text
    assert "benchmark.py generation --model tiny --prompts 5 --tokens 6 --rounds 2`" in text


def test_answers_end_with_the_token_that_ends_them() -> None:
    assert generation.until([5, 6, 2, 2, 2], [2]) == [5, 6, 2]
    assert generation.until([5, 3, 6], [2, 3]) == [5, 3]
    assert generation.until([5, 6], [2]) == [5, 6]


def test_greedy_answers_are_those_of_transformers(tmp_path: Path) -> None:
    asked = generation.Settings("tiny", prompts=12, tokens=6, rounds=1, threads=1)
    result = json.loads(generation.main(asked, tmp_path).read_text())
    mine, others = result["generation"]
    assert mine["answers that are the same"] == "12 of 12" and mine["tokens"] == others["tokens"] > 12


def test_page_wants_results(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no results"):
        page.main(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kto", "dpo"])
def test_contestants_take_the_same_steps(loss: str, tmp_path: Path) -> None:
    words = ["steps", "--model", "tiny", "--loss", loss, "--batch", "4", "--rounds", "2", "--warmup", "1"]
    words += ["--threads", "1", "--contestants", f"{FLOOR},{OURS},{TRL}", "--out", str(tmp_path)]
    # That they saw the same tokens in every step, the benchmark checks itself.
    subprocess.run([sys.executable, str(ENTRY), *words], check=True, timeout=560)
    (file,) = tmp_path.glob("*.json")
    result = json.loads(file.read_text())
    found = result["contestants"]
    assert list(found) == [FLOOR, OURS, TRL]
    for one in found.values():
        assert len(one["seconds"]["each"]) == 2 and min(one["seconds"]["each"]) > 0
        assert one["tokens_per_second"] > 0 and one["peak_memory"] > 2**26 and 0 <= one["padding"] < 1
    assert found[FLOOR]["positions_per_token"] < 1 < found[OURS]["positions_per_token"] + (loss == "dpo")
    assert found[TRL]["positions_per_token"] > found[OURS]["positions_per_token"]
    assert found[OURS]["over"][FLOOR]["n"] == 2
    assert page.main(tmp_path).exists()


@pytest.mark.slow
def test_every_reader_reads_the_same_files(tmp_path: Path) -> None:
    words = ["reading", "--rows", "40", "--rounds", "1", "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(ENTRY), *words], check=True, timeout=560)
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())["reading"]
    assert [one[""] for one in found] == list(reading.CONTESTANTS) * len(reading.FORMATS)
    assert all(one[name] > 0 for one in found for name in ("first, CPU s", "again, CPU s"))


@pytest.mark.slow
def test_commands_run_on_many_thumbs_and_on_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "FEW", 40)
    monkeypatch.setenv("KTO_LAB_CACHE", "")
    found = json.loads(large.main(large.Settings(80, 90, 1), tmp_path).read_text())["large"]
    assert [one["thumbs"] for one in found] == [40] * 2 + [80] * 4
    assert all(one["CPU s"] > 0.5 and one["peak MB"] > 64 for one in found)


@pytest.mark.slow
def test_keys_are_tried_side_by_side(tmp_path: Path) -> None:
    words = ["keys", "--model", "tiny", "--batch", "4", "--rounds", "2", "--warmup", "1", "--threads", "1"]
    tried = "optimization.gradient_checkpointing=true optimization.micro_batch_tokens=512"
    subprocess.run([sys.executable, str(ENTRY), *words, "--out", str(tmp_path), tried], check=True, timeout=560)
    (file,) = tmp_path.glob("*.json")
    default, other = json.loads(file.read_text())["keys"]
    assert default["setting"] == "as it comes" and other["setting"] == tried
    assert default["times the default's"] == "1 [1, 1]" and default["MiB over the default's peak"] == 0
    assert float(other["times the default's"].split()[0]) > 0 and other["peak GiB"] > 0.1
