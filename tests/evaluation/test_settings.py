from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from kto_lab.errors import LabError
from kto_lab.evaluation.lm_eval_tasks import AUTO
from kto_lab.evaluation.settings import Evaluation

CONF = Path(__file__).parents[2] / "conf"


def load(option: str, *overrides: str) -> Evaluation:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(overrides=[f"+evaluation={option}", *overrides]).evaluation)


def test_every_option_is_an_evaluation() -> None:
    assert {path.stem for path in (CONF / "evaluation").glob("*.yaml")} == {
        *("quick", "lm_eval", "none"),
        *("tiny", "paper", "debug"),
    }
    quick, full, none = load("quick"), load("lm_eval"), load("none")
    assert quick.prompts == full.prompts == 120 and quick.lm_eval == []
    assert full.lm_eval == AUTO
    assert (none.prompts, none.kl_prompts, none.reward_examples, none.lm_eval) == (0, 0, 0, [])


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(InstantiationException, match="prompt_count"):
        load("quick", "+evaluation.prompt_count=3")


# lm-eval itself takes a share of the documents for its limit.
@pytest.mark.parametrize(
    "override",
    [
        "prompts=-1", "batch_tokens=0", "lm_eval_batch_size=0", "max_new_tokens=0",
        "lm_eval_limit=0", "lm_eval_limit=0.5", "kl_prompts=many",
        "prompts=true", "prompts=null", "lm_eval=kto_lab_checks", "lm_eval=[1]",
    ],
)  # fmt: skip
def test_a_count_that_means_nothing_is_an_error(override: str) -> None:
    key = override.split("=")[0]
    with pytest.raises((LabError, InstantiationException), match=f"evaluation.{key} is"):
        load("quick", f"evaluation.{override}")


@pytest.mark.parametrize("tasks", ["auto", "[kto_lab_neutral]"])
def test_worked_examples_are_refused_for_tasks_that_have_none(tasks: str) -> None:
    words = [f"evaluation.lm_eval={tasks}", "evaluation.lm_eval_fewshot=2"]
    with pytest.raises(
        (LabError, InstantiationException), match=r"evaluation\.lm_eval_fewshot is 2, and .*kto_lab_neu"
    ):
        load("quick", *words)
    assert load("quick", "evaluation.lm_eval=[hellaswag]", words[1]).lm_eval_fewshot == 2


def test_a_task_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises((LabError, InstantiationException), match=r"names the file nowhere/own\.yaml"):
        load("quick", "evaluation.lm_eval=[nowhere/own.yaml]")
