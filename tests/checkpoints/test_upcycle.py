from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smoe_mt.checkpoints.upcycle import upcycle_from, upcycled_state
from smoe_mt.errors import UserError
from smoe_mt.fairseq_patches import apply
from smoe_mt.models import SMoETransformerModel

Make = Callable[..., SMoETransformerModel]


def test_experts_and_norms_are_the_dense_ones_and_gates_stay(make_model: Make) -> None:
    dense, smoe = make_model(moe="none").state_dict(), make_model(strata="2,2")
    state = upcycled_state(dense, smoe, "dense")
    block = "decoder.layers.1.block"
    for e in range(4):
        assert state[f"{block}.experts.w_in"][e].equal(dense["decoder.layers.1.fc1.weight"])
        assert state[f"{block}.experts.b_out"][e].equal(dense["decoder.layers.1.fc2.bias"])
    for i in range(2):
        assert state[f"{block}.norms.{i}.bias"].equal(dense["decoder.layers.1.final_layer_norm.bias"])
    assert state[f"{block}.gates.1.weight"].equal(smoe.state_dict()[f"{block}.gates.1.weight"])
    assert state["encoder.layers.0.fc1.weight"].equal(dense["encoder.layers.0.fc1.weight"])


@pytest.mark.parametrize("moe", ["vanilla", "stratified"])
def test_with_shared_experts_it_starts_as_without(make_model: Make, moe: str) -> None:
    dense = make_model(moe="none").state_dict()
    plain, shared = (make_model(moe=moe, strata="4", shared_experts=n, dropout=0.0) for n in (0, 2))
    for model in (plain, shared):
        model.load_state_dict(upcycled_state(dense, model, "dense"))
    x = torch.tensor([[5, 6, 7, 2]])
    want, got = (model.eval()(x, torch.tensor([4]), x)[0] for model in (plain, shared))
    torch.testing.assert_close(got, want)
    assert shared.state_dict()[
        "encoder.layers.1.block." + ("moe." if moe == "vanilla" else "") + "shared.fc1.weight"
    ].any()


def test_another_size_is_refused_by_name(make_model: Make) -> None:
    dense = make_model(moe="none", encoder_ffn_embed_dim=32)
    smoe = make_model(strata="2,2")
    with pytest.raises(UserError, match="fc1.weight is .* but this model has"):
        upcycled_state(dense.state_dict(), smoe, "dense.pt")


def test_smaller_experts_cannot_start_from_a_dense_ffn(make_model: Make) -> None:
    dense, smaller = make_model(moe="none").state_dict(), make_model(moe="xmoe")
    wanted = "fc1, .*fc2 of dense.pt does not fit: w_in is .*these experts have .*every expert must be as large as the dense FFN"
    with pytest.raises(UserError, match=wanted):
        upcycled_state(dense, smaller, "dense.pt")


@pytest.mark.parametrize("system", ["mhmoe", "stratified_mhmoe"])
def test_experts_of_parts_of_tokens_cannot_start_from_a_dense_ffn(make_model: Make, system: str) -> None:
    dense, smaller = make_model(moe="none").state_dict(), make_model(moe=system)
    with pytest.raises(UserError, match="layers.1 read parts of a token, 8 of its 16 values"):
        upcycled_state(dense, smaller, "dense.pt")


def test_a_sparse_checkpoint_is_refused(make_model: Make) -> None:
    smoe = make_model(strata="2,2")
    with pytest.raises(UserError, match="must be a dense model"):
        upcycled_state(smoe.state_dict(), smoe, "smoe.pt")


def test_missing_and_damaged_files_are_named(make_model: Make, tmp_path: Path) -> None:
    apply()
    smoe = make_model(strata="2,2")
    with pytest.raises(UserError, match="there is no checkpoint"):
        upcycle_from(tmp_path / "none.pt", smoe)
    torch.save({"model": {}}, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:200])
    with pytest.raises(UserError, match="not a whole fairseq checkpoint"):
        upcycle_from(tmp_path / "cut.pt", smoe)


@pytest.mark.parametrize(
    "settings",
    [{"moe": "pesc", "num_experts": 3}, {"moe": "stratified_pesc", "strata": "2,2"}],
    ids=["pesc", "stratified_pesc"],
)
def test_a_dense_model_with_adapters_computes_what_it_did(make_model: Make, settings: dict[str, object]) -> None:
    dense, adapted = make_model(moe="none").eval(), make_model(**settings).eval()
    adapted.load_state_dict(upcycled_state(dense.state_dict(), adapted, "dense"))
    tokens = {"src_tokens": torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1]]), "src_lengths": torch.tensor([5, 3])}
    before = torch.tensor([[2, 11, 12, 13], [2, 14, 1, 1]])
    got, want = (model(**tokens, prev_output_tokens=before)[0][before != 1] for model in (adapted, dense))
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6)
    assert got.argmax(-1).equal(want.argmax(-1))
