"""What is evaluated, and how much of it: the keys of `conf/evaluation`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from kto_lab.errors import LabError
from kto_lab.evaluation.lm_eval_tasks import AUTO, LOCAL_TASKS, check_files, tasks_for
from kto_lab.evaluation.measuring import find_metrics
from kto_lab.kinds import AtLeastOne, Count
from kto_lab.values import check_fields

if TYPE_CHECKING:
    from datasets import Dataset

    from kto_lab.judging.reward import RewardModel


@dataclass(frozen=True)
class Evaluation:
    """How much to evaluate; a count of 0 leaves that part out.

    Attributes:
        reward_examples: held-out examples whose implicit reward is measured, at most.
        prompts: held-out prompts answered greedily and checked, at most.
        kl_prompts: held-out prompts answered at temperature 1 for the KL from the reference, at most.
        max_new_tokens: where an unfinished answer is cut, in tokens.
        batch_tokens: tokens of prompts and answers held at once, padding included; changes no answer.
        lm_eval: names of lm-eval tasks to run, its own, a task file's path, or the local `kto_lab_checks` and
            `kto_lab_neutral`; or "auto", for the local ones that the held-out prompts allow.
        lm_eval_limit: documents a lm-eval task, at most; None for all of them.
        lm_eval_batch_size: requests that lm-eval has in flight at once, each with the logits of all its tokens.
        lm_eval_fewshot: worked examples before each document; None for what the task says.
        judge: the reward model that scores the greedy answers; None for none.
        metrics: dotted names of further metrics; see `kto_lab.evaluation.metrics`.
    """

    reward_examples: Count
    prompts: Count
    kl_prompts: Count
    max_new_tokens: AtLeastOne
    batch_tokens: AtLeastOne
    lm_eval: list[str] | Literal["auto"]
    lm_eval_limit: AtLeastOne | None
    lm_eval_batch_size: AtLeastOne
    lm_eval_fewshot: Count | None
    judge: "RewardModel | None" = None
    metrics: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong without the feedback."""
        check_fields(self, "evaluation")
        if self.judge is not None and not self.prompts:
            raise LabError("evaluation.judge scores greedy answers, and evaluation.prompts is 0. Raise it.")
        if find_metrics(self.metrics) and not self.prompts and not self.reward_examples:
            raise LabError(
                "evaluation.metrics are computed from greedy answers and rewards, and evaluation.prompts and "
                "evaluation.reward_examples are 0. Raise one."
            )
        local = LOCAL_TASKS if self.lm_eval == AUTO else [task for task in self.lm_eval if task in LOCAL_TASKS]
        if self.lm_eval_fewshot and local:
            raise LabError(
                f"evaluation.lm_eval_fewshot is {self.lm_eval_fewshot}, and {' and '.join(local)} have no worked "
                "examples to show. Set it to null, or name tasks of lm-eval's own in evaluation.lm_eval."
            )
        if self.lm_eval != AUTO:
            check_files(self.lm_eval)

    @property
    def measures(self) -> bool:
        """Whether anything is measured; a policy that is only trained and kept has evaluation=none."""
        return bool(self.reward_examples or self.prompts or self.kl_prompts or self.lm_eval)

    def on(self, table_test: "Dataset") -> tuple["Evaluation", str]:
        """What can be evaluated on these held-out prompts, with the tasks of lm-eval by name.

        Args:
            table_test: the held-out part of a table of examples.

        Returns:
            The settings, and a sentence on what was left out, "" where nothing was.

        Raises:
            LabError: something that was asked for by name cannot be; see `lm_eval_tasks.tasks_for`.
        """
        tasks, left_out = tasks_for(self.lm_eval, table_test, self.lm_eval_limit)
        return replace(self, lm_eval=tasks), left_out
