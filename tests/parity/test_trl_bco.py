"""BCO against TRL's BCOTrainer, over two batches, since its reward shift remembers."""

from typing import Any

import pytest
from torch import Tensor
from trl.experimental.bco import BCOConfig, BCOTrainer

from kto_lab.losses import bco
from kto_lab.losses.reference_points import Evidence, RunningMean, State
from tests.parity.side_by_side import THUMBS, Bench, assert_same, collate, cut, real_tokens, theirs, thumb_rows

BETA = 0.3
# Two of one class and one of the other, and then the other way round.
BATCHES = [[0, 1, 2], [3, 4, 5]]


def test_bco_agrees_with_trl_batch_after_batch(bench: Bench) -> None:
    trainer = bench.trainer(BCOTrainer, BCOConfig, thumb_rows(), beta=BETA)

    def loss_of_one(example: dict[str, Any]) -> Tensor:
        # The reward shift stays where the whole batch has put it.
        loss, _ = trainer.get_batch_loss_metrics(trainer.model, example, do_train=False)
        assert isinstance(loss, Tensor)
        return loss

    state: State = ()
    for numbers in BATCHES:
        rows = [THUMBS[number] for number in numbers]
        sequences = [bench.encode(prompt, completion) for prompt, completion, _ in rows]
        batch = collate(trainer, numbers)
        ids, mask = batch["completion_input_ids"], batch["completion_attention_mask"]
        assert real_tokens(ids, mask, batch["completion_labels"] != -100) == sequences
        assert batch["label"] == [desirable for _, _, desirable in rows]

        outcome = theirs(trainer, batch, cut(batch, len(rows)), loss_of_one)
        before = bench.thumbs(rows)
        point = RunningMean().estimate(Evidence(before.logratio.detach(), before.desirable), state)
        state = point.state
        # TRL's shift is in rewards, ours in nats of log-ratio.
        assert BETA * point.raw == pytest.approx(trainer.running.mean, abs=1e-5) and abs(point.raw) > 0.01
        assert_same(bench.ours(bco(bench.thumbs(rows, z0=point.z0), beta=BETA)), outcome)
