"""How good the labelers' thumbs are where the truth is known: results/feedback/labeling, a file per cell, and its page.

python scripts/label_quality.py                        # every cell that is not there yet, and the page
python scripts/label_quality.py arithmetic-reward      # these cells again

Each cell is one `kto-lab feedback label` command, which its file names. The cell arithmetic-reward first trains the
reward model that it needs, in about a minute; with a language model as judge a cell takes up to half an hour on two
cores.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForSequenceClassification

from kto_lab import cli
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.table import of_split
from kto_lab.files import write_json, write_text
from kto_lab.labeling.command import label_feedback
from kto_lab.models.reading import quiet
from kto_lab.models.tiny import byte_tokenizer

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "results" / "feedback" / "labeling"
HERE = TARGET.relative_to(ROOT)

CHECKS = ["answers=feedback", "feedback=instruction_checks", "feedback.train_prompts=null"]
SUMS = ["answers=feedback", "feedback=arithmetic"]
MOVIES = ["answers=feedback", "feedback=movie_ratings", "feedback.label=consensus"]
JUDGE = ["labeler=constitution", "model@labeler.model=smollm2-135m", "labeler.model.source=registry", "trainer=cpu"]
# Of the slow ones.
FEW = ["limit_prompts=30", "labeler.examples=32"]
SUM_PRINCIPLES = [f"labeler.path={HERE}/arithmetic_principles.yaml"]
FILM_PRINCIPLES = [f"labeler.path={HERE}/movie_principles.yaml", "limit_prompts=200"]
# What the cell arithmetic-reward makes: a reward model, and the held-out sums that it is asked about.
MADE = ROOT / "runs" / "label_quality"
HELD_OUT = [
    "answers=file",
    "answers.path=runs/label_quality/held_out.parquet",
    "answers.columns.label=desirable",
    "answers.columns.group=group",
    "answers.columns.split=split",
]

CELLS: dict[str, list[str]] = {
    "instruction_checks-rules": [*CHECKS, "labeler=rules", f"labeler.path={HERE}/instruction_rules.yaml"],
    "instruction_checks-rules-example": [*CHECKS, "labeler=rules", "labeler.path=example"],
    "instruction_checks-classifier": [*CHECKS, "labeler=classifier"],
    "instruction_checks-constitution-text": [*CHECKS, *JUDGE, *FEW, "labeler.layout=text"],
    "arithmetic-classifier": [*SUMS, "labeler=classifier"],
    "arithmetic-reward": [
        *HELD_OUT,
        "labeler=reward",
        "labeler.model=runs/label_quality/reward",
        "labeler.layout=pair",
    ],
    "arithmetic-constitution-text": [*SUMS, *JUDGE, *SUM_PRINCIPLES, "labeler.layout=text", "limit_prompts=75"],
    "movie_ratings-rules": [*MOVIES, "labeler=rules", f"labeler.path={HERE}/movie_rules.yaml"],
    "movie_ratings-classifier": [*MOVIES, "labeler=classifier"],
    "movie_ratings-constitution-chat": [*MOVIES, *JUDGE, *FILM_PRINCIPLES, "labeler.layout=chat"],
    "movie_ratings-constitution-text": [*MOVIES, *JUDGE, *FILM_PRINCIPLES, "labeler.layout=text"],
    "movie_ratings-constitution-text-without-thumbs": [
        *MOVIES,
        *JUDGE,
        *FILM_PRINCIPLES,
        "labeler.layout=text",
        "labeler.examples=0",
    ],
}
SEED = 0
NOTES = (
    "- `instruction_rules.yaml` was written by someone who knew the ten constraints: it shows what rules can say, not",
    "  what a stranger's rules would reach. `rules example` are the rules that ship, which know none of them.",
    "- The reward model is the tiny policy with a fresh head, taught by the thumbs of the training split by this",
    "  script, and judged on held-out sums. No published reward model was measured.",
    "- `constitution` is SmolLM2-135M-Instruct in 4 bits as the judge, on the first prompts by hash (`limit_prompts`):",
    "  asked in its chat template (`chat`) or in plain text (`text`), calibrated with 64 prompts' thumbs (32 on",
    "  `instruction_checks`) or without any. A weak judge gives nearly all answers one thumb, a kappa of 0: look",
    "  at the AUC by principle. Scores calibrated out of fold have an AUC below 0.5 where the judge tells nothing: a",
    "  fold whose thumbs are mostly up gets the share of the others, which is lower.",
)


def main(names: list[str]) -> None:
    """Measure cells, and write the page of all that are there."""
    if unknown := sorted(set(names) - set(CELLS)):
        sys.exit(f"There is no cell {unknown[0]}. Known: {', '.join(CELLS)}.")
    for name in names or [name for name in CELLS if not _file(name).exists()]:
        if name == "arithmetic-reward":
            make_reward_model()
        write_json(_file(name), measure(CELLS[name]))
    write_text(TARGET / "README.md", page({name: _read(name) for name in CELLS if _file(name).exists()}))


def _file(name: str) -> Path:
    return TARGET / f"{name}.json"


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_file(name).read_text(encoding="utf-8"))
    return found


def measure(words: list[str]) -> dict[str, Any]:
    """The command, and what its report says, without the places of single answers."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "labels.parquet"
        with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
            cfg = compose("label", [*words, f"output={output}"])
        report = json.loads(label_feedback(cfg).with_suffix(".json").read_text(encoding="utf-8"))
    del report["configuration"]
    report["left_out"] = {reason: entry["answers"] for reason, entry in report["left_out"].items()}
    return {"command": " ".join(["kto-lab feedback label", *words, "output=labels.parquet"]), **report}


def make_reward_model() -> None:
    """A reward model of a million parameters, taught right from wrong sums by the thumbs of the training split.

    The shipped tiny policy with a fresh head, ten passes of logistic regression on the thumbs. The held-out examples go
    into a file beside it.
    """
    torch.manual_seed(SEED)
    table = from_collected("arithmetic", None)
    train, test = of_split(table, "train"), of_split(table, "test")
    tokenizer = byte_tokenizer()
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            ROOT / "kto_lab" / "models" / "tiny_arithmetic",
            num_labels=1,
            dtype=torch.float32,
            trust_remote_code=False,
        )
    inputs = tokenizer(train["prompt"][:], train["completion"][:], padding=True, return_tensors="pt")
    thumbs = torch.tensor(train["desirable"][:]).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(10):
        for rows in torch.randperm(len(thumbs)).split(64):
            logits = model(input_ids=inputs["input_ids"][rows], attention_mask=inputs["attention_mask"][rows]).logits
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], thumbs[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(MADE / "reward")
    tokenizer.save_pretrained(MADE / "reward")
    pq.write_table(test.data.table, MADE / "held_out.parquet")


def page(cells: dict[str, dict[str, Any]]) -> str:
    """The page: one line per cell."""
    lines = [
        "# How good labelers' thumbs are",
        "",
        "Thumbs that `kto-lab feedback label` gave, against the truth: the checkers of `instruction_checks` and",
        "`arithmetic`, and the sign of the mean rating in `movie_ratings`. Nothing was labelled by what",
        "learned from a thumb of the same prompt. 95 % intervals over prompts, bootstrap seed 0. Written by",
        "`python scripts/label_quality.py`; the files beside this page hold each cell's command, counts, confusion and",
        "the labeler's own numbers.",
        "",
        "| data | labeler | answers | no thumb | same thumb | Cohen's kappa | AUC of the score |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, cell in cells.items():
        data, _, labeler = name.partition("-")
        truth, auc = cell["truth"], cell["auc"].get("score")
        missing = sum(cell["left_out"].values())
        lines.append(
            f"| {data} | {labeler.replace('-', ' ').replace('_', ' ')} | {cell['answers']:,} | {missing:,} "
            f"| {text(truth['accuracy'])} | {text(truth['kappa'])} | {text(auc)} |"
        )
    lines += ["", *NOTES, "", "## By principle", "", "The judge's margin of yes over no, before any calibration.", ""]
    lines += ["| data | judge | principle | AUC |", "|---|---|---|---|"]
    for name, cell in cells.items():
        data, _, labeler = name.partition("-")
        parts = {part: value for part, value in cell["auc"].items() if part != "score"}
        lines += [f"| {data} | {labeler.replace('-', ' ')} | {part} | {text(value)} |" for part, value in parts.items()]
    lines += ["", "## Commands", ""]
    lines += [f"    {cell['command']}" for cell in cells.values()]
    return "\n".join([*lines, ""])


def text(estimate: dict[str, Any] | None) -> str:
    """An estimate with its interval."""
    if estimate is None or estimate["value"] is None:
        return ""
    if estimate["low"] is None:
        return f"{estimate['value']:.2f}"
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
