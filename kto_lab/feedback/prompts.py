"""Prompts whose answers a program can check, made from our own templates and topics.

`instruction_checks` asks for something short about a topic under one constraint on its form; `arithmetic` asks for a
sum. Both are pure functions: they give the same prompts on every machine. `from_file` reads a user's own prompts.
"""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.feedback.asked import kept_of, messages_of
from kto_lab.feedback.checkers import arithmetic_checks, ifeval_checks, read_checks
from kto_lab.feedback.known import require_same_checks
from kto_lab.feedback.messages import canonical
from kto_lab.feedback.paths import opened
from kto_lab.feedback.row_values import check_prompt
from kto_lab.feedback.rows import ContainerName, Paths, Reading, all_readable, existing, read_rows
from kto_lab.feedback.table import prompt_id
from kto_lab.feedback.unread import Unread, ignored
from kto_lab.feedback.whole import READ as OF_MESSAGES
from kto_lab.kinds import Seed
from kto_lab.models.tokens import Prompt

# The keys that are read in a row of a user's own file.
READ = ("prompt", "checks", "group", "worked")
TOPICS = (
    "a rainy day in a harbour town", "why leaves change colour", "a lost umbrella", "how bread rises",
    "learning to ride a bicycle", "the first snow of winter", "an old lighthouse", "a crowded morning train",
    "growing tomatoes on a balcony", "a cat asleep on a windowsill", "the smell of a bakery", "a school play",
    "walking home at night", "the sound of a waterfall", "a letter from a friend", "repairing a broken chair",
    "a visit to the dentist", "a market on a Saturday", "how magnets work", "the colour of the sea",
    "a birthday without cake", "moving to a new city", "a long queue", "the oldest tree in the park",
    "a bridge over a river", "making tea", "a forgotten password", "the taste of lemons", "a museum of clocks",
    "a football match in the rain", "how birds find their way", "a quiet library", "a broken lift",
    "the last day of a holiday", "a garden in spring", "learning a new language", "a thunderstorm at sea",
    "a small mountain village", "why we dream", "a borrowed book", "a power cut", "the smell of rain",
    "a day at the beach", "baking an apple pie", "a noisy neighbour", "a campfire story", "how a kite flies",
    "an early flight", "a busy kitchen", "the moon over a field", "a pair of old boots", "a missed bus",
    "painting a fence", "a dog that likes swimming", "the end of summer", "a hidden staircase",
    "a train through the desert", "a chess game in a park", "an empty theatre", "a jar of buttons",
)  # fmt: skip


@dataclass(frozen=True)
class CheckedPrompt:
    """A prompt, how its answers are checked, and a worked example that can be shown to elicit a good answer.

    Attributes:
        prompt: what the policy is asked.
        checks: JSON for `checkers.score_answer`.
        group: what results are broken down by.
        worked: messages shown before the prompt when it is sampled with a worked example; may be empty.
    """

    prompt: Prompt
    checks: str
    group: str
    worked: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class _Family:
    """One constraint: what to write, a check, and an answer that satisfies it (shown with `WORKED_TOPIC`)."""

    ask: Callable[[str, int], str]
    instruction: str
    arguments: Callable[[int], dict[str, Any]]
    worked: Callable[[int], str] | None = None


WORKED_TOPIC = "a stone wall"
_FIRST_WORDS = ("Today", "Honestly", "Sometimes", "Well", "Imagine", "Once")
_LAST_WORDS = ("That is all.", "Hope that helps!", "The end.", "Thanks for reading.")
_FEW = (12, 15, 20)

FAMILIES: dict[str, _Family] = {
    "title": _Family(
        lambda topic, k: (
            f"Write one sentence about {topic}. "
            "Begin with a title wrapped in double angular brackets, such as <<title>>."
        ),
        "detectable_format:title",
        lambda k: {},
    ),
    "few_words": _Family(
        lambda topic, k: f"Describe {topic} in fewer than {_FEW[k % 3]} words.",
        "length_constraints:number_words",
        lambda k: {"num_words": _FEW[k % 3], "relation": "less than"},
    ),
    "two_bullets": _Family(
        lambda topic, k: f'Say two things about {topic} as exactly 2 bullet points. Each line starts with "* ".',
        "detectable_format:number_bullet_lists",
        lambda k: {"num_bullets": 2},
        lambda k: "* It keeps the sheep in the field.\n* It is covered with moss.",
    ),
    "quotation": _Family(
        lambda topic, k: f"Write one sentence about {topic}. Wrap your whole answer in double quotation marks.",
        "startend:quotation",
        lambda k: {},
        lambda k: '"The stone wall was warm from the sun."',
    ),
    "first_word": _Family(
        lambda topic, k: f'Write one sentence about {topic}. Start your answer with the word "{_FIRST_WORDS[k % 6]}".',
        "length_constraints:nth_paragraph_first_word",
        lambda k: {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": _FIRST_WORDS[k % 6].lower()},
    ),
    "last_words": _Family(
        lambda topic, k: (
            f'Write one sentence about {topic}. Finish your answer with the exact words "{_LAST_WORDS[k % 4]}"'
        ),
        "startend:end_checker",
        lambda k: {"end_phrase": _LAST_WORDS[k % 4]},
        lambda k: f"A stone wall stands for a hundred years. {_LAST_WORDS[k % 4]}",
    ),
    "lowercase": _Family(
        lambda topic, k: f"Write one sentence about {topic}. Use lower case letters only, no capital letters.",
        "change_case:english_lowercase",
        lambda k: {},
        lambda k: "the old stone wall was warm in the evening sun.",
    ),
    "placeholder": _Family(
        lambda topic, k: (
            f"Write a one-sentence message about {topic} with a placeholder in square brackets, such as [name]."
        ),
        "detectable_content:number_placeholders",
        lambda k: {"num_placeholders": 1},
    ),
    "highlight": _Family(
        lambda topic, k: f"Write one sentence about {topic}. Highlight one word with asterisks, such as *word*.",
        "detectable_format:number_highlighted_sections",
        lambda k: {"num_highlights": 1},
        lambda k: "The wall is built of *stone* and stands by the road.",
    ),
    "no_comma": _Family(
        lambda topic, k: f"Write one or two sentences about {topic}. Do not use any commas.",
        "punctuation:no_comma",
        lambda k: {},
    ),
}


def instruction_checks() -> list[CheckedPrompt]:
    """Every topic under every constraint: 60 x 10 = 600 chat prompts, each with one IFEval check.

    In a fixed random order, so that a collection that is stopped early has some of every kind.
    """
    prompts = list(_instruction_checks())
    random.Random(0).shuffle(prompts)
    return prompts


def _instruction_checks() -> Iterator[CheckedPrompt]:
    for name, family in FAMILIES.items():
        for number, topic in enumerate(TOPICS):
            worked: tuple[dict[str, str], ...] = ()
            if family.worked is not None:
                worked = (
                    {"role": "user", "content": family.ask(WORKED_TOPIC, number)},
                    {"role": "assistant", "content": family.worked(number)},
                )
            yield CheckedPrompt(
                prompt=[{"role": "user", "content": family.ask(topic, number)}],
                checks=ifeval_checks((family.instruction, family.arguments(number))),
                group=name,
                worked=worked,
            )


def arithmetic(prompts: int, largest: int, seed: Seed) -> list[CheckedPrompt]:
    """Distinct sums and differences of two numbers up to `largest`, as plain text such as "17+25=".

    Args:
        prompts: how many.
        largest: the largest operand.
        seed: decides which ones.
    """
    if prompts > (largest + 1) * (largest + 2):
        raise LabError(f"There are no {prompts} distinct sums up to {largest}; ask for fewer, or raise `largest`.")
    generator = np.random.default_rng(seed)
    seen: dict[str, CheckedPrompt] = {}
    while len(seen) < prompts:
        left, right = sorted(generator.integers(0, largest + 1, size=2).tolist(), reverse=True)
        plus = bool(generator.integers(2))
        text = f"{left}{'+' if plus else '-'}{right}="
        seen[text] = CheckedPrompt(
            prompt=text,
            checks=arithmetic_checks(str(left + right if plus else left - right)),
            group="sum" if plus else "difference",
        )
    return list(seen.values())


def from_file(
    path: Paths,
    container: ContainerName,
    encoding: str | None,
    delimiter: str | None,
    max_rows: int | None,
    ignore: Sequence[str],
) -> list[CheckedPrompt]:
    """A user's own prompts: files of rows with `prompt` (text or chat messages), `checks`, `group` and maybe `worked`.

    `checks` is an object as in `checkers.py`, `group` a name, `worked` chat messages shown before the prompt for
    `sampling.worked_samples`. Other keys are reported once, unless `ignore` names them.

    Raises LabError with file and line where a row does not fit, and where a key that is not read changes what is asked,
    such as a `system` beside the prompt.
    """
    files = existing(path, "prompts.path")
    reading = Reading(container, encoding, delimiter, max_rows, node="prompts")
    checks: dict[str, str] = {}
    found = []
    unread = Unread("prompts", ignored(ignore, READ, node="prompts"), message_keys=OF_MESSAGES)
    keys = frozenset(OF_MESSAGES) - unread.ignore
    rows = opened(lambda: read_rows(files, reading, otherwise="jsonl"), READ, None, node="prompts")
    for where, row in all_readable(rows()):
        found.append(_from_row(row, where, files.stem, keys))
        unread.look(row, READ)
        for messages in (messages_of(row["prompt"], asked=True), row.get("worked")):
            unread.look_at_messages(messages)
        require_same_checks(checks, prompt_id(found[-1].prompt), found[-1].checks, where)
    if not found:
        raise LabError(f"{files}: there is no prompt in it.")
    if len({type(item.prompt) for item in found}) > 1:
        raise LabError(f"{files}: some prompts are chat messages and some are plain text. Make them all one kind.")
    if told := unread.sentence(str(files)):
        narration.say(f"    {told}")
    return found


def _from_row(row: dict[str, Any], where: str, group: str, keys: Collection[str]) -> CheckedPrompt:
    if "prompt" not in row:
        raise LabError(f"{where}: there is no 'prompt'. Each row needs one (text or chat messages) and its 'checks'.")
    asked = messages_of(row["prompt"], asked=True)
    if isinstance(asked, list):
        asked = kept_of([canonical(message) for message in asked], keys, where)
    prompt, checks = check_prompt(asked, where), read_checks(row.get("checks"), where)
    if not checks:
        raise LabError(
            f"{where}: the prompt has no 'checks', by which `kto-lab feedback collect` gives the thumbs. Add them, "
            'such as {"checker": "arithmetic", "answer": "42"} (all are in kto_lab/feedback/checkers.py). Where no '
            "program can judge, sample answers yourself and give them to `kto-lab feedback label`."
        )
    worked = row.get("worked") or ()
    if not isinstance(worked, list | tuple):
        raise LabError(f"{where}: 'worked' is {worked!r}; it must be a list of chat messages.")
    if worked and isinstance(prompt, str):
        raise LabError(f"{where}: 'worked' is for prompts that are chat messages, and this one is text. Leave it out.")
    if worked:
        check_prompt([*worked, *prompt], where)
    return CheckedPrompt(prompt, checks, str(row.get("group") or group), tuple(worked))
