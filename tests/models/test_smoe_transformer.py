from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from smoe_mt.checkpoints.upcycle import upcycled_state
from smoe_mt.errors import UserError
from smoe_mt.models import SMoETransformerModel, smoe_transformer
from smoe_mt.models.config import MOE_KINDS
from smoe_mt.moe import SYSTEMS, ExpertBank

Make = Callable[..., SMoETransformerModel]
Input = dict[str, torch.Tensor]


def real(logits: torch.Tensor) -> torch.Tensor:
    """The logits of net_input's tokens without the padding, where a dense FFN computes something that nobody reads."""
    return torch.cat([logits[0], logits[1, :2]])


def test_every_second_layer_has_a_block(make_model: Make) -> None:
    model = make_model(moe="stratified", strata="2,2", encoder_layers=6, decoder_layers=4)
    assert model.moe_layers == {"encoder": (2, 4, 6), "decoder": (2, 4)}


def test_routing_comes_with_the_output(make_model: Make, net_input: Input) -> None:
    _, extra = make_model(moe="stratified", strata="2,2")(**net_input)
    (encoder,), (decoder,) = extra["encoder_routing"], extra["decoder_routing"]
    assert encoder.visits.gt(0).tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert decoder.visits.gt(0).tolist() == [[True] * 4, [True] * 2 + [False] * 2]


def test_a_dense_model_has_no_routing(make_model: Make, net_input: Input) -> None:
    model = make_model(moe="none")
    _, extra = model(**net_input)
    assert extra["encoder_routing"] == extra["decoder_routing"] == ()
    assert model.moe_layers == {"encoder": (), "decoder": ()}


def test_no_hook_stays_on_the_layers(make_model: Make, net_input: Input) -> None:
    model = make_model(moe="vanilla", num_experts=3)
    model(**net_input)
    assert not any(layer._forward_hooks for layer in model.encoder.layers)


def test_vanilla_layer_is_a_dense_one_when_its_experts_are_alike(make_model: Make, net_input: Input) -> None:
    """The block does the FFN half's work once: norm, FFN, residual."""
    dense = make_model(moe="none").eval()
    vanilla = make_model(moe="vanilla", num_experts=3).eval()
    vanilla.load_state_dict(upcycled_state(dense.state_dict(), vanilla, "dense"))
    torch.testing.assert_close(real(vanilla(**net_input)[0]), real(dense(**net_input)[0]))


def test_stratified_layer_with_one_stratum_of_like_experts_is_a_dense_one(make_model: Make, net_input: Input) -> None:
    dense = make_model(moe="none").eval()
    smoe = make_model(moe="stratified", strata=[4]).eval()
    smoe.load_state_dict(upcycled_state(dense.state_dict(), smoe, "dense"))
    torch.testing.assert_close(real(smoe(**net_input)[0]), real(dense(**net_input)[0]))


@pytest.mark.parametrize("moe", MOE_KINDS)
def test_evaluation_does_not_depend_on_the_batch(make_model: Make, net_input: Input, moe: str) -> None:
    model = make_model(moe=moe, strata="2,2", num_experts=4).eval()
    together, _ = model(**net_input)
    alone, _ = model(
        net_input["src_tokens"][1:, :3], net_input["src_lengths"][1:], net_input["prev_output_tokens"][1:, :2]
    )
    torch.testing.assert_close(together[1:, :2], alone)


@pytest.mark.parametrize("moe", MOE_KINDS[1:])
def test_decoding_step_by_step_gives_what_one_pass_gives(make_model: Make, net_input: Input, moe: str) -> None:
    model = make_model(moe=moe, strata="2,2", num_experts=4).eval()
    whole, _ = model(**net_input)
    encoder_out = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
    state: dict[str, dict[str, torch.Tensor | None]] = {}
    previous = net_input["prev_output_tokens"][:1]
    first_encoder_out = model.encoder.reorder_encoder_out(encoder_out, torch.tensor([0]))
    steps = [
        model.decoder(previous[:, : i + 1], encoder_out=first_encoder_out, incremental_state=state)[0]
        for i in range(previous.size(1))
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole[:1])


@pytest.mark.parametrize("moe", MOE_KINDS[1:])
def test_all_parameters_learn(make_model: Make, moe: str) -> None:
    model = make_model(moe=moe, strata="2,2", num_experts=2, dropout=0.0)
    torch.manual_seed(2)
    tokens = torch.randint(5, 20, (8, 12))
    logits, extra = model(tokens, torch.full((8,), 12), tokens)
    balance = sum(r.balance_loss for r in extra["encoder_routing"] + extra["decoder_routing"])
    (logits.logsumexp(-1).sum() + balance).backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None] == []


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({"moe": "vanilla"}, {"top_k": 2, "capacity_factor": 2.0, "eom_p": 0.0}),
        ({"moe": "switch"}, {"top_k": 1, "capacity_factor": 2.0, "eom_p": 0.0}),
        ({"moe": "switch", "variant": "release"}, {"top_k": 1, "capacity_factor": 1.0, "eom_p": 0.0}),
        ({"moe": "switch", "capacity_factor": 1.5}, {"top_k": 1, "capacity_factor": 1.5, "eom_p": 0.0}),
        ({"moe": "eom"}, {"top_k": 2, "capacity_factor": 2.0, "eom_p": 0.1}),
        ({"moe": "eom", "eom_p": 0.2}, {"top_k": 2, "capacity_factor": 2.0, "eom_p": 0.2}),
        ({"moe": "stratified", "strata": "2,2"}, {"top_k": 2, "capacity_factor": 2.0, "eom_p": 0.0}),
        ({"moe": "stratified", "strata": "2,2", "eom_p": 0.1}, {"top_k": 2, "capacity_factor": 2.0, "eom_p": 0.1}),
    ],
)
def test_what_a_system_is_unless_told_otherwise(
    make_model: Make, settings: dict[str, Any], blocks: dict[str, float]
) -> None:
    block = make_model(**settings).encoder.layers[1].block
    moe = getattr(block, "moe", block)
    gate = moe.gates[0] if hasattr(moe, "gates") else moe.gate
    found = {"top_k": gate.selection.k, "capacity_factor": moe.settings.capacity_factor, "eom_p": moe.mask.p}
    assert found == blocks


@pytest.mark.parametrize("strata", ["2,3;4", [[2, 3], [4]]])
def test_strata_may_differ_by_block(make_model: Make, net_input: Input, strata: Any) -> None:
    model = make_model(moe="stratified", strata=strata)
    assert model.encoder.layers[1].block.strata == (2, 3) and model.decoder.layers[1].block.strata == (4,)
    _, extra = model(**net_input)
    assert [len(extra[f"{side}_routing"][0].load) for side in ("encoder", "decoder")] == [2, 1]


@pytest.mark.parametrize("num_experts", ["3,5", [3, 5]])
def test_numbers_of_experts_may_differ_by_block(make_model: Make, num_experts: Any) -> None:
    model = make_model(moe="vanilla", num_experts=num_experts)
    sizes = [layers[1].block.moe.experts.num_experts for layers in (model.encoder.layers, model.decoder.layers)]
    assert sizes == [3, 5]


@pytest.mark.parametrize("moe", ["stacking", "cmr", "mpoe"])
def test_one_dense_layer_lies_in_every_system(make_model: Make, net_input: Input, moe: str) -> None:
    """From a dense model, one layer of like experts is its FFN; so is a mixture of that FFN with itself."""
    dense = make_model(moe="none").eval()
    system = make_model(moe=moe, strata=[3], num_experts=3).eval()
    system.load_state_dict(upcycled_state(dense.state_dict(), system, "dense"))
    torch.testing.assert_close(real(system(**net_input)[0]), real(dense(**net_input)[0]))


@pytest.mark.parametrize("moe", ["vanilla", "stratified", "mpoe"])
def test_experts_start_equal_where_that_is_asked_for(make_model: Make, moe: str) -> None:
    for init, alike in (("equal", True), ("independent", False)):
        model = make_model(moe=moe, expert_init=init)
        banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
        assert banks
        stacks = [stack for bank in banks for stack in bank.stacks().values()]
        assert all(bool((stack == stack[:1]).all()) for stack in stacks) is alike


def test_release_has_no_dropout_around_the_layer(make_model: Make) -> None:
    for variant, around, inside in (("paper", 0.3, 0.0), ("release", 0.0, 0.3)):
        block = make_model(moe="vanilla", variant=variant, dropout=0.3).encoder.layers[1].block
        assert (block.dropout, block.moe.settings.expert_dropout) == (around, inside)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"moe": "stacking", "strata": "4,1"}, "--moe stacking: top_k=2 needs at least 2 experts"),
        ({"moe": "stacking", "strata": ""}, r"model\.strata=.*: it must be a whole number from 1"),
        ({"moe": "eom", "eom_p": 1.0}, r"model\.eom_p=1"),
        ({"moe": "cmr", "cmr_gate_dropout": 1.0}, r"model\.cmr_gate_dropout=1"),
        ({"strata": "4,0"}, r"model\.strata=.*: it must be a whole number from 1"),
        ({"strata": "4,x"}, r"model\.strata=.*: it must be a whole number from 1"),
        ({"strata": "4,4;8;4,4"}, "--strata: strata for 3 blocks, but the model has 2"),
        ({"moe": "vanilla", "num_experts": "8,0"}, r"model\.num_experts=8,0: it must be a whole number from 1"),
        ({"moe": "vanilla", "num_experts": "8,8,8"}, "--num-experts: num_experts for 3 blocks, but the model has 2"),
        ({"moe": "xmoe", "xmoe_split": 5}, "--moe xmoe: xmoe_split=5 does not divide the 24 hidden units"),
        ({"moe": "mpoe", "mpoe_shape": "4,4"}, "--moe mpoe: mpoe_shape must be two lists"),
        ({"moe": "pile"}, "unknown system 'pile'"),
        ({"moe": "hmoe", "expert_init": "equal"}, "--moe hmoe: experts of different sizes cannot start equal"),
        ({"strata": "4,1"}, "--moe stratified: top_k=2 needs at least 2 experts"),
        ({"top_k": 0}, r"model\.top_k=0: it must be a whole number from 1"),
        ({"encoder_normalize_before": False}, "pre-norm only"),
        ({"moe_freq": 3}, "moe_freq=3 leaves"),
        ({"moe_freq": 0}, r"model\.moe_freq=0: it must be a whole number from 1"),
        ({"encoder_attention_heads": 3}, "no multiple"),
        ({"activation_fn": "gelu_fast"}, "unknown activation"),
    ],
)
def test_settings_that_make_no_sense_are_named(make_model: Make, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_model(**({"strata": "2,2"} | settings))


def test_a_system_that_builds_no_block_is_named(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    record = replace(SYSTEMS["vanilla"], build=lambda cfg, place: torch.nn.Linear(2, 2))
    monkeypatch.setattr("smoe_mt.models.blocks.SYSTEMS", {"vanilla": record})
    with pytest.raises(UserError, match="--moe vanilla: its build function returned a Linear, not a MoEBlock"):
        make_model(moe="vanilla")


def test_bf16_on_the_cpu_is_for_training_alone(make_model: Make, net_input: Input) -> None:
    model = make_model(strata="2,2", cpu_bf16="on")
    assert model(**net_input)[0].dtype is torch.bfloat16
    assert model.eval()(**net_input)[0].dtype is torch.float32
    assert all(p.dtype is torch.float32 for p in model.parameters())


def test_debug_names_the_gate_by_its_place_in_the_model(make_model: Make, net_input: Input) -> None:
    model = make_model(moe="stratified", strata="2,2", moe_debug=True)
    model(**net_input)
    model.decoder.layers[1].block.gates[0].weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"^decoder\.layers\.1\.block\.gates\.0, the gate of stratum 1: "):
        model(**net_input)


@pytest.mark.parametrize("moe", ["pesc", "stratified"])
def test_experts_and_gates_alone_can_be_trained(make_model: Make, net_input: Input, moe: str) -> None:
    model = make_model(moe=moe, strata="2,2", num_experts=3, train_only="experts").train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    model(**net_input)[0].square().mean().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if ".experts." in name or ".gate" in name}


def test_what_no_training_changes_is_not_trained_with_the_experts(make_model: Make) -> None:
    model = make_model(moe="moefied", num_experts=3, train_only="experts")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".experts." in name}


def test_a_dense_model_has_no_experts_to_train_alone(make_model: Make) -> None:
    with pytest.raises(UserError, match="train_only=experts leaves nothing to train"):
        make_model(moe="none", train_only="experts")


@pytest.mark.parametrize(
    ("dense", "embed_dim", "faster"), [(True, 64, False), (True, 128, True), (False, 256, False), (False, 512, True)]
)
def test_bfloat16_is_chosen_by_processor_and_width(
    monkeypatch: pytest.MonkeyPatch, dense: bool, embed_dim: int, faster: bool
) -> None:
    monkeypatch.setattr(smoe_transformer, "cpu_computes_bf16", lambda: True)
    assert smoe_transformer.bf16_is_faster(dense, embed_dim) == faster
    monkeypatch.setattr(smoe_transformer, "cpu_computes_bf16", lambda: False)
    assert not smoe_transformer.bf16_is_faster(dense, embed_dim)


def test_cpu_bf16_auto_trains_where_it_is_faster(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(strata="2,2", cpu_bf16="auto").train()
    asked: list[tuple[bool, int]] = []
    monkeypatch.setattr(smoe_transformer, "bf16_is_faster", lambda *how: bool(asked.append(how)))
    assert not model._in_bf16(torch.zeros(1, 1, dtype=torch.long))
    assert asked == [(False, model.cfg.encoder.embed_dim)]
