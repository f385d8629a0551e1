"""What is evaluated, and how much of it: the keys of `conf/evaluation`."""

from dataclasses import dataclass, fields

from kto_lab.errors import LabError


@dataclass(frozen=True)
class Evaluation:
    """How much to evaluate; a count of 0 leaves that part out.

    Attributes:
        reward_examples: held-out examples whose implicit reward is measured, at most.
        prompts: held-out prompts answered greedily and checked, at most.
        kl_prompts: held-out prompts answered at temperature 1 for the KL from the reference, at most.
        max_new_tokens: where an unfinished answer is cut, in tokens.
        batch_size: answers (and lm-eval requests) in flight at once.
        lm_eval: names of lm-eval tasks to run, its own, a task file's path, or the local `kto_lab_checks` and
            `kto_lab_neutral`.
        lm_eval_limit: documents a lm-eval task, at most; None for all of them.
        lm_eval_fewshot: worked examples before each document; None for what the task says.
    """

    reward_examples: int
    prompts: int
    kl_prompts: int
    max_new_tokens: int
    batch_size: int
    lm_eval: list[str]
    lm_eval_limit: int | None
    lm_eval_fewshot: int | None

    def __post_init__(self) -> None:
        """Refuse counts that mean nothing."""
        least = {"max_new_tokens": 1, "batch_size": 1, "lm_eval_limit": 1}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < least.get(field.name, 0):
                raise LabError(f"evaluation.{field.name} is {value}; it must be at least {least.get(field.name, 0)}.")
