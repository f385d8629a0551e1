"""The group `reference`: the policy's first weights, another model, or none."""

import json
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.models.load import tiny
from kto_lab.models.logps import score
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.models.tokens import Encoder
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.identity import identify
from kto_lab.runs.record import read_record
from kto_lab.training.callbacks import METRICS
from tests.small_runs import composed, configuration, metrics, run

TWO = ("optimization.max_steps=2",)
OTHER = ("reference=model", "model@reference.model=tiny", "reference.model.weights=random")
JUDGED = [f"evaluation.{name}" for name in ("prompts=0", "reward_examples=8", "kl_prompts=2", "max_new_tokens=3")]


def into(folder: Path, name: str, *more: str) -> Path:
    """A run into a folder of its own, with the store of them all."""
    return run(folder, *TWO, f"run_dir={folder / name}", *more)


def use(folder: Path) -> tuple[int, int]:
    reference = read_record(folder)["training"]["reference"]
    return reference["found"], reference["computed"]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_policys_own_model_as_another_one_is_the_initial_reference(tmp_path: Path, adapter: str) -> None:
    judged = ("evaluation=quick", *JUDGED, f"adapter={adapter}")
    first, second = into(tmp_path, "initial", *judged), into(tmp_path, "model", *judged, *OTHER)
    assert (first / METRICS).read_bytes() == (second / METRICS).read_bytes()
    # Its log-probs are those of the same weights, so the store has them.
    assert use(second)[1] == 0 and use(second)[0] > 8
    one, other = read_record(first)["metrics"], read_record(second)["metrics"]
    assert one["rewards"] == other["rewards"]
    assert one["kl"]["value"] == pytest.approx(other["kl"]["value"], abs=1e-5)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_another_model_is_what_rewards_and_kl_are_measured_against(tmp_path: Path, adapter: str) -> None:
    words = ("evaluation=quick", *JUDGED, f"adapter={adapter}", *OTHER, "reference.model.seed=3")
    folder = into(tmp_path, "run", *words)
    record = read_record(folder)
    assert record["model"]["reference"]["name"] == "tiny Llama, random weights, seed 3"
    # Before the first step, too, the policy is not its reference.
    assert abs(float(metrics(folder)[0]["reward_margin"])) > 1e-3
    kept = json.loads((folder / "evaluation" / "base.json").read_text())["logps"]
    loaded = tiny("random", 3)
    encoder = Encoder.of(loaded)
    sequences = [encoder.encode(f"{n}+{2 * n}=", str(3 * n + off)) for n in range(3, 24, 4) for off in (0, 10)]
    plain = score(loaded.model, sequences, pad_id=encoder.pad_id, token_budget=999)  # type: ignore[arg-type]
    assert len(kept) == 8 and all((plain - value).abs().min() < 1e-4 for value in kept)
    assert record["metrics"]["kl"]["value"] != 0
    assert use(into(tmp_path, "again", *words))[1] == 0
    again = evaluate(
        composed(["evaluation=quick", *JUDGED, "trainer=cpu", f"run={folder}", "reference_store=none"], name="evaluate")
    )
    for name in ("rewards", "kl"):
        for key, value in flat(read_record(again)["metrics"][name]).items():
            assert value == pytest.approx(flat(record["metrics"][name])[key], abs=1e-4), (name, key)


def flat(node: Any, key: str = "") -> dict[str, float]:
    if not isinstance(node, dict):
        return {key: node} if node is not None else {}
    return {name: value for child, inner in node.items() for name, value in flat(inner, f"{key}.{child}").items()}


def test_samples_are_compared_with_the_other_model(tmp_path: Path) -> None:
    sampled = ("reference_point@loss.reference_point=sampled", "loss.reference_point.max_new_tokens=4")
    found = [
        float(metrics(into(tmp_path, name, *sampled, *words))[0]["z0_raw"])
        for name, words in {"initial": (), "same": OTHER, "other": (*OTHER, "reference.model.seed=3")}.items()
    ]
    assert found[0] == pytest.approx(0, abs=1e-4) and found[1] == pytest.approx(0, abs=1e-4)
    assert abs(found[2]) > 1e-2


def test_a_reference_of_other_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    model = random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
    model.save_pretrained(tmp_path / "other")
    vocabulary = {token: (index + 1) % len(tokenizer) for token, index in tokenizer.get_vocab().items()}
    tokenizer.save_pretrained(tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    saved = json.loads(file.read_text())
    saved["model"]["vocab"] = {token: vocabulary.get(token, i) for token, i in saved["model"]["vocab"].items()}
    file.write_text(json.dumps(saved))
    with pytest.raises(LabError, match=r"has another tokenizer than the policy: \d+ of \d+ tokens have another id"):
        into(tmp_path, "run", "reference=model", f"reference.model.name={tmp_path / 'other'}")


def test_a_loss_that_reads_no_reference_can_do_without(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="The loss kto compares the policy with a reference, and reference=none leaves"):
        into(tmp_path, "kto", "reference=none")
    folder = into(tmp_path, "simpo", "loss=simpo", "reference=none", "evaluation=quick", *JUDGED)
    record = read_record(folder)
    assert use(folder) == (0, 0) and "rewards" not in record["metrics"] and "kl" not in record["metrics"]
    (row, _) = metrics(folder)
    assert not [name for name in row if "reward" in name]
    with_one = into(tmp_path, "with", "loss=simpo", "evaluation=quick", *JUDGED)
    assert [row["loss"] for row in metrics(folder)] == [row["loss"] for row in metrics(with_one)]


def test_the_reference_is_part_of_the_identity(tmp_path: Path) -> None:
    words = [(), OTHER, (*OTHER, "reference.model.seed=3")]
    found = [identify(configuration(tmp_path, *more)).run_id for more in words]
    assert len(set(found)) == 3
