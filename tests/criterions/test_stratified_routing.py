from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from smoe_mt.criterions import StratifiedRoutingCriterion
from smoe_mt.errors import UserError
from smoe_mt.models import SMoETransformerConfig, SMoETransformerModel
from smoe_mt.models.config import MOE_KINDS
from smoe_mt.moe import Gate


def make_model(task: SimpleNamespace, **settings: Any) -> SMoETransformerModel:
    sizes = {"embed_dim": 16, "ffn_embed_dim": 24, "layers": 2, "attention_heads": 2}
    cfg = SMoETransformerConfig(**{f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in sizes.items()})
    cfg.dropout = cfg.attention_dropout = 0.0
    cfg.strata = "2,2"
    for name, value in settings.items():
        setattr(cfg, name, value)
    torch.manual_seed(1)
    return SMoETransformerModel.build_model(cfg, task)


SAMPLE: dict[str, Any] = {
    "net_input": {
        "src_tokens": torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1]]),
        "src_lengths": torch.tensor([5, 3]),
        "prev_output_tokens": torch.tensor([[2, 11, 12, 13], [2, 14, 1, 1]]),
    },
    "target": torch.tensor([[11, 12, 13, 2], [14, 2, 1, 1]]),
    "ntokens": 6,
    "direction": torch.tensor([1, 0]),
}


def criterion(task: SimpleNamespace, **settings: Any) -> StratifiedRoutingCriterion:
    return StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1, **settings)


def test_training_loss_is_translation_plus_weighted_balance(task: SimpleNamespace) -> None:
    model = make_model(task, capacity_factor=0.0)
    loss, size, log = criterion(task, balance_weight=0.5)(model, SAMPLE)
    translation, _, _ = criterion(task, balance_weight=0.0)(model, SAMPLE)
    _, extra = model(**SAMPLE["net_input"])
    balance = torch.stack([r.balance_loss for r in extra["encoder_routing"] + extra["decoder_routing"]]).mean()
    assert size == 6
    torch.testing.assert_close(loss, translation + 0.5 * 6 * balance)
    torch.testing.assert_close(log["loss"], translation.detach())


def test_a_z_loss_is_computed_and_weighted_where_it_has_a_weight(task: SimpleNamespace) -> None:
    model = make_model(task, capacity_factor=0.0)
    plain, _, log = criterion(task)(model, SAMPLE)
    assert "mean:z_loss" not in log
    loss, _, log = criterion(task, z_weight=0.5)(model, SAMPLE)
    _, extra = model(**SAMPLE["net_input"])
    z = torch.stack([r.losses["z"] for r in extra["encoder_routing"] + extra["decoder_routing"]]).mean()
    torch.testing.assert_close(loss, plain + 0.5 * 6 * z)
    torch.testing.assert_close(log["mean:z_loss"], 6 * z.detach())
    again, _, _ = criterion(task)(model, SAMPLE)
    assert again.equal(plain) and model(**SAMPLE["net_input"])[1]["encoder_routing"][0].losses.keys() == {"balance"}


def test_a_z_loss_of_routers_without_logits_is_refused(task: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "on_request", ())
    with pytest.raises(
        UserError, match=r"--moe stratified: encoder.*stratum 1: Gate has no loss 'z'; leave its weight"
    ):
        criterion(task, z_weight=0.1)(make_model(task), SAMPLE)


def test_a_loss_without_a_weight_is_named(task: SimpleNamespace) -> None:
    model = make_model(task)
    tested = criterion(task)
    del tested.options.balance_weight
    with pytest.raises(UserError, match="the loss 'balance' of the MoE blocks has no weight: .*loss_weights"):
        tested(model, SAMPLE)


def test_validation_loss_is_the_translation_loss_alone(task: SimpleNamespace) -> None:
    model = make_model(task).eval()
    assert criterion(task, balance_weight=5.0)(model, SAMPLE)[0].equal(
        criterion(task, balance_weight=0.0)(model, SAMPLE)[0]
    )


def test_translation_loss_is_fairseqs(task: SimpleNamespace) -> None:
    from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion

    model = make_model(task, moe="none")
    theirs, _, _ = LabelSmoothedCrossEntropyCriterion(task, False, 0.1)(model, SAMPLE)
    torch.testing.assert_close(criterion(task)(model, SAMPLE)[0], theirs)


def reduced(logs: list[dict[str, Any]]) -> dict[str, float]:
    with metrics.aggregate(new_root=True) as aggregated:
        StratifiedRoutingCriterion.reduce_metrics(logs)
    return aggregated.get_smoothed_values()


def test_metrics_are_what_the_routing_says(task: SimpleNamespace) -> None:
    model = make_model(task).eval()
    _, _, log = criterion(task)(model, SAMPLE)
    _, extra = model(**SAMPLE["net_input"])
    values = reduced([log])
    visits = extra["encoder_routing"][0].visits
    assert values["rc_enc"] == pytest.approx(visits.sum().item() / 8, abs=1e-3)
    assert values["rc_encoder/en-aa"] == pytest.approx(visits[0].sum().item() / 5, abs=1e-3)
    assert values["rc_encoder/aa-en"] == pytest.approx(visits[1].sum().item() / 3, abs=1e-3)
    assert values["overflow"] == 0
    asked = extra["decoder_routing"][0].load[0].asked
    shares = [values[f"load/decoder.layers.1/gate1/expert{e + 1}"] for e in range(4)]
    assert shares == pytest.approx((asked / asked.sum()).tolist(), abs=1e-4)
    assert 0 < values["gate_entropy/encoder.layers.1/gate1"] <= round(math.log(4), 3)


def test_what_routers_tell_besides_is_logged_for_each_gate_and_over_all(task: SimpleNamespace) -> None:
    model = make_model(task, moe="stratified_dynmoe", dynmoe_start=1).eval()
    _, _, log = criterion(task)(model, SAMPLE)
    _, extra = model(**SAMPLE["net_input"])
    values = reduced([log, log])
    blocks = [*extra["encoder_routing"], *extra["decoder_routing"]]
    silent, tokens = 0.0, 0
    for block, name in zip(blocks, ("encoder.layers.1", "decoder.layers.1"), strict=True):
        for gate, (load, measures) in enumerate(zip(block.load, block.measures, strict=True), start=1):
            if load.tokens.any():
                asked = (load.asked.sum() / load.tokens.sum()).item()
                assert values[f"experts_chosen/{name}/gate{gate}"] == pytest.approx(asked, abs=1e-4)
                silent += (measures["chose_nobody"] * load.tokens.sum()).item()
        tokens += int(sum(load.tokens.sum() for load in block.load))
    assert values["experts_active/encoder.layers.1/gate1"] == 2
    assert values["chose_nobody"] == pytest.approx(silent / tokens, abs=1e-3)


@pytest.mark.parametrize("top_k", [1, 2])
def test_gate_entropy_is_the_mean_over_tokens_whatever_the_number_of_choices(task: SimpleNamespace, top_k: int) -> None:
    model = make_model(task, top_k=top_k).eval()
    _, _, log = criterion(task)(model, SAMPLE)
    _, extra = model(**SAMPLE["net_input"])
    entropy = extra["encoder_routing"][0].entropy[0].item()
    assert reduced([log])["gate_entropy/encoder.layers.1/gate1"] == pytest.approx(entropy, abs=1e-3)


def test_metrics_add_up_over_batches(task: SimpleNamespace) -> None:
    model = make_model(task).eval()
    _, _, log = criterion(task)(model, SAMPLE)
    once, twice = reduced([log]), reduced([log, log])
    for name in (
        "loss",
        "balance_loss",
        "rc_enc",
        "rc_dec",
        "overflow",
        "nll_loss/aa-en",
        "load/encoder.layers.1/gate1/expert1",
    ):
        assert once[name] == pytest.approx(twice[name], abs=1e-3), name


def test_losses_by_direction_add_up_to_the_whole(task: SimpleNamespace) -> None:
    model = make_model(task).eval()
    _, _, log = criterion(task)(model, SAMPLE)
    values = reduced([log])
    whole = (values["nll_loss/en-aa"] * 4 + values["nll_loss/aa-en"] * 2) / 6
    assert whole == pytest.approx(values["nll_loss"], abs=2e-3)


@pytest.mark.parametrize("moe", MOE_KINDS)
def test_keys_do_not_depend_on_the_batch(task: SimpleNamespace, moe: str) -> None:
    """Ranks sum their logs key by key, so all must have the same ones."""
    model = make_model(task, moe=moe)
    one = {**SAMPLE, "direction": torch.tensor([0, 0])}
    assert criterion(task)(model, SAMPLE)[2].keys() == criterion(task)(model, one)[2].keys()


def test_budget_loss_takes_all_blocks_together(task: SimpleNamespace) -> None:
    model = make_model(task, moe="cmr", cmr_gate_dropout=0.0, capacity_factor=0.0)
    loss, size, log = criterion(task, balance_weight=0.0, cmr_weight=0.5, cmr_budget=0.9)(model, SAMPLE)
    translation, _, _ = criterion(task, balance_weight=0.0, cmr_weight=0.0)(model, SAMPLE)
    _, extra = model(**SAMPLE["net_input"])
    mean = sum(r.sums["gate"] for r in extra["encoder_routing"] + extra["decoder_routing"]) / (8 + 6)
    torch.testing.assert_close(loss, translation + 0.5 * size * (mean - 0.9).abs())
    torch.testing.assert_close(log["loss"], translation.detach())
    assert reduced([log, log])["cmr_gate"] == pytest.approx(mean.item(), abs=1e-3)


def test_validation_has_no_budget_loss(task: SimpleNamespace) -> None:
    model = make_model(task, moe="cmr").eval()
    assert criterion(task, cmr_weight=5.0)(model, SAMPLE)[0].equal(criterion(task, cmr_weight=0.0)(model, SAMPLE)[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"balance_weight": -1.0}, r"criterion\.balance_weight=-1\.0: it must be a number from 0"),
        ({"cmr_weight": -1.0}, r"criterion\.cmr_weight=-1\.0"),
        ({"z_weight": -1.0}, r"criterion\.z_weight=-1\.0"),
        ({"cmr_budget": 2.0}, r"criterion\.cmr_budget=2\.0: it must be from 0 to 1"),
    ],
)
def test_weights_that_make_no_sense_are_refused(task: SimpleNamespace, settings: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        criterion(task, **settings)


@pytest.mark.parametrize(("kind", "sentence_avg"), [*((kind, False) for kind in MOE_KINDS), ("stratified", True)])
def test_positions_and_rows_of_padding_count_nowhere(task: SimpleNamespace, kind: str, sentence_avg: bool) -> None:
    """Loss, gradients, and all that is logged are those of the batch alone, a capacity that drops slots included."""
    options = {"moe": kind, "capacity_factor": 0.5, "cmr_gate_dropout": 0.0, "pesc_dropout": 0.0, "eom_p": 0.0}
    model = make_model(task, num_experts=4, **options).train()
    tested = StratifiedRoutingCriterion(task, sentence_avg=sentence_avg, label_smoothing=0.1, balance_weight=0.5)
    found = []
    for sample in (SAMPLE | {"nsentences": 2}, padded(SAMPLE) | {"nsentences": 2}):
        model.zero_grad()
        loss, size, log = tested(model, sample)
        loss.backward()
        gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        found.append((loss, size, log, gradients))
    (loss, size, log, gradients), (of_padded, size_of_padded, log_of_padded, gradients_of_padded) = found
    assert (
        size == size_of_padded and list(log) == list(log_of_padded) and gradients.keys() == gradients_of_padded.keys()
    )
    torch.testing.assert_close(of_padded, loss)
    for key, value in log.items():
        torch.testing.assert_close(log_of_padded[key], value)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_of_padded[name], gradient, msg=name)


def padded(sample: dict[str, Any]) -> dict[str, Any]:
    """Two columns and three rows more, all of them padding."""
    pad = torch.nn.functional.pad
    tokens = {
        name: pad(sample["net_input"][name], (0, 2, 0, 3), value=1) for name in ("src_tokens", "prev_output_tokens")
    }
    net_input = tokens | {"src_lengths": pad(sample["net_input"]["src_lengths"], (0, 3))}
    target, direction = pad(sample["target"], (0, 2, 0, 3), value=1), pad(sample["direction"], (0, 3))
    return sample | {"net_input": net_input, "target": target, "direction": direction}
