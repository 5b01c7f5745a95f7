"""The door for settings, and for the rest of a checkpoint."""

from __future__ import annotations

import copy
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.checkpoints.checked import checked_state
from smoe_mt.checkpoints.sharded import SHARDS, Shards, fill
from smoe_mt.checkpoints.sizes import fewest_parameters, stored_numbers
from smoe_mt.checkpoints.writing import write_sharded
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.models.config import MOE_KINDS
from tests.conftest import TrainedRun
from tests.toy import smallest_settings

FILE = Path("elsewhere.pt")
TABLE = torch.zeros(4, 10, dtype=torch.float64)  # as validation by BLEU logs it
BLEU = (10, "_bleu", "AverageMeter", {"val": TABLE, "sum": TABLE, "count": 1, "round": None})
METER = (10, "loss", "AverageMeter", {"val": 1.0, "sum": 2.0, "count": 2, "round": 3})


def state() -> dict[str, Any]:
    return {
        "cfg": {**smallest_settings(), "common": {"seed": 1}},
        "args": None,
        "model": {"embed": torch.zeros(100)},
        "optimizer_history": [{"num_updates": 3, "lr_scheduler_state": {"lr": 0.1}}],
        "task_state": {"vocabulary": {"size": 4, "sha256": "0" * 64, "folder": "data"}},
        "extra_state": {
            "val_loss": 1.0,
            "metrics": {"default": [METER, BLEU]},
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 2, "shuffle": True},
            "smoe_mt": {"nonfinite": {"total": 0, "in_a_row": 0}, "early_stopping": {"best": 1.0}},
        },
    }


def changed(place: str, value: Any) -> dict[str, Any]:
    """The state with another value at a place such as cfg.model.dropout."""
    whole = state()
    *path, last = place.split("/")
    inside: Any = whole
    for name in path:
        inside = inside[name]
    inside[last] = value
    return whole


def test_a_sound_state_stays_as_it_is() -> None:
    assert str(checked_state(state(), FILE)) == str(state())


@pytest.mark.parametrize(
    "place, value",
    [
        ("cfg", None),
        ("cfg", []),
        ("cfg/model", None),
        ("cfg/model", "smoe_transformer"),
        ("cfg/model/_name", ["smoe_transformer"]),
        ("cfg/task/_name", {}),
        ("cfg/model/dropout", float("nan")),
        ("cfg/model/dropout", "0.1"),
        ("cfg/model/encoder_layers", -1),
        ("cfg/model/encoder_layers", 10**5),
        ("cfg/model/encoder_layers", True),
        ("cfg/model/max_target_positions", 10**9),
        ("cfg/model/activation_fn", "os.system"),
        ("cfg/model/strata", "9" * 10_000),
        ("cfg/model/strata", [[2], [2.0]]),
        ("cfg/model/strata", [[2], [[2]]]),
        ("cfg/model/strata", [[2]] * 3000),
        ("cfg/model/num_experts", [8, "x"]),
        ("cfg/model/num_experts", 10**9),
        ("cfg/model/moe", "nomoe"),
        ("cfg/model/xmoe_threshold", 2.0),
        ("cfg/model/mpoe_bond", -1),
        ("cfg/model/mhmoe_parity", "x"),
        ("cfg/model/mhmoe_residual", "yes"),
        ("cfg/model/init_experts_from", "${oc.env:HOME}"),
        ("cfg/model/moe_backend", Namespace(a=1)),
        ("cfg/model/another_setting", 1),
        ("cfg/model/\x1b[31m", 1),
        ("cfg/model/encoder_embed_dim", torch.tensor(1)),
        ("cfg/task/data", b"bytes"),
        ("cfg/task/data", "???"),
        ("cfg/task/train_subset", "../../train"),
        ("cfg/task/expert_parallel_size", 0),
        ("cfg/common/seed", "${oc.env:HOME}"),
        ("cfg/common/seed", torch.zeros(3)),
        ("cfg/common/seed", {"a": {1: 2}}),
        ("cfg/common/seed", list(range(20_000))),
        ("cfg/common/user_dir", "a" * 10_000),
        ("model/embed", "no tensor"),
        ("model/embed", torch.zeros(3).to_sparse()),
        ("model/embed", torch.zeros(100).to(torch.float8_e4m3fn)),
        ("model/embed", torch.zeros(100, dtype=torch.complex64)),
        ("cfg/model/encoder_attention_heads", 2),
        ("cfg/model/mpoe_shape", "${x}"),
        ("optimizer_history", "x"),
        ("optimizer_history", [{"num_updates": "x"}]),
        ("optimizer_history", [{"num_updates": -1}]),
        ("optimizer_history", [{"num_updates": 1, "lr_scheduler_state": {"lr": "x"}}]),
        ("task_state", []),
        ("task_state/vocabulary", "x"),
        ("task_state/vocabulary/size", "x"),
        ("task_state/vocabulary/sha256", "x"),
        ("task_state/vocabulary/folder", "\x1b[31m"),
        ("extra_state", []),
        ("extra_state/val_loss", "x"),
        ("extra_state/averaged", "x"),
        ("extra_state/train_iterator", []),
        ("extra_state/train_iterator/epoch", "x"),
        ("extra_state/train_iterator/epoch", 10**12),
        ("extra_state/metrics", []),
        ("extra_state/metrics/default", [METER, METER]),
        ("extra_state/metrics/default", [(10, "loss", "OrderedDict", {})]),
        ("extra_state/metrics/default", [(10, "loss", "AverageMeter", {})]),
        ("extra_state/smoe_mt/early_stopping", {"__wrapped__": 1}),
        ("extra_state/smoe_mt/nonfinite/total", "x"),
    ],
)
def test_what_no_training_writes_is_refused_in_one_line(place: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        checked_state(changed(place, value), FILE)
    message = str(error.value)
    assert message.startswith("elsewhere.pt: ") and message.isprintable() and len(message) < 400


@pytest.mark.parametrize("settings", [
    {"moe": "mpoe", "mpoe_shape": "__import__('os')"},
    {"moe": "mpoe", "mpoe_shape": "1," * 900 + "1x" + "1," * 900 + "1"},
    {"moe": "mpoe", "mpoe_shape": "9" * 4000 + ",1x1,1"},
    {"moe": "mpoe", "mpoe_shape": "-1,-1x-1,-1"},
    {"moe": "xmoe", "xmoe_split": 7},
    {"moe": "vanilla", "num_experts": [[1] * 2000] * 50},
])  # fmt: skip
def test_settings_that_make_no_model_are_refused_in_one_short_line(settings: dict[str, Any]) -> None:
    """With the name of the file, and without the whole of what it says."""
    hostile = state()
    hostile["cfg"]["model"] |= {"moe_freq": 1, **settings}
    with pytest.raises(UserError, match="elsewhere.pt: its settings (make no|describe a) model") as error:
        checked_state(hostile, FILE)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("inside", [lambda found: found.append(found), lambda found: found.extend([found] * 9)])
def test_values_without_an_end_are_refused(inside: Any) -> None:
    values: list[Any] = []
    inside(values)
    with pytest.raises(UserError, match="too many values, or too deep"):
        checked_state(changed("cfg/common/user_dir", values), FILE)


def test_few_values_that_stand_for_many_are_refused() -> None:
    values: Any = "x"
    for _ in range(7):
        values = [values] * 100
    with pytest.raises(UserError, match="too many values"):
        checked_state(changed("cfg/common/user_dir", values), FILE)


def test_what_is_found_shares_nothing_with_the_file() -> None:
    given_state = changed("cfg/common/user_dir", ["a"])
    found = checked_state(given_state, FILE)["cfg"]
    before = copy.deepcopy(found)
    given_state["cfg"]["common"]["user_dir"].append("b")
    given_state["cfg"]["model"]["dropout"] = "x"
    assert found == before


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(leaves, inner), max_leaves=10)
PLACES = ["cfg", "cfg/model", "cfg/task", "cfg/model/strata", "cfg/common/seed", "model", "optimizer_history"]
PLACES += ["extra_state", "extra_state/metrics", "extra_state/smoe_mt", "task_state", "task_state/vocabulary"]


@given(st.sampled_from(PLACES), anything)
def test_any_value_anywhere_is_taken_or_refused(place: str, value: Any) -> None:
    try:
        checked_state(changed(place, value), FILE)
    except UserError as error:
        assert "\n" not in str(error)


# --- sizes ---


@pytest.mark.parametrize("shared_experts", [0, 3])
@pytest.mark.parametrize("moe", MOE_KINDS)
def test_the_lower_bound_of_parameters_is_one(moe: str, shared_experts: int) -> None:
    from smoe_mt.analysis.cost import skeleton
    from smoe_mt.models.config import SMoETransformerConfig

    sizes = {"encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "encoder_layers": 4, "encoder_attention_heads": 2}
    sizes |= {"decoder_embed_dim": 16, "decoder_ffn_embed_dim": 40, "decoder_layers": 2, "decoder_attention_heads": 2}
    settings = {**sizes, "moe": moe, "strata": "2,3", "num_experts": 5, "shared_experts": shared_experts}
    model = skeleton(SMoETransformerConfig(**settings), 20)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 2 < fewest_parameters(settings, FILE) <= parameters


def test_a_number_that_many_weights_show_is_counted_once() -> None:
    one = torch.zeros(1)
    weights = {f"w{i}": one.expand(1000, 1000) for i in range(5)} | {"half": torch.zeros(6, dtype=torch.bfloat16)[2:]}
    assert stored_numbers(weights) == 7


def test_a_model_larger_than_the_file_is_not_built() -> None:
    sizes = {"encoder_embed_dim": 4096, "decoder_embed_dim": 4096}
    whole = state()
    whole["cfg"]["model"] |= sizes
    with pytest.raises(UserError, match="describe a model of at least .* and it holds 100 numbers"):
        checked_state(whole, FILE)


def test_tensors_larger_than_their_folder_are_not_made(tmp_path: Path) -> None:
    whole = {**state(), "model": {"embed": torch.ones(100)}}
    write_sharded(whole, tmp_path / "model.pt")
    found = torch.load(tmp_path / "model.pt", weights_only=True)
    found["model"]["embed"] = torch.empty(10**15, device="meta")
    with pytest.raises(UserError, match="larger tensors than are in"):
        fill(found, tmp_path / "model.pt", ("model",))


@pytest.mark.parametrize("part, value", [("tied", {"a": 1}), ("parameters", [1]), ("tied", {1: "a"})])
def test_names_of_tensors_are_names(part: str, value: Any, tmp_path: Path) -> None:
    write_sharded({**state(), "model": {"embed": torch.ones(100)}}, tmp_path / "model.pt")
    found = torch.load(tmp_path / "model.pt", weights_only=True)
    found[SHARDS][part] = value
    with pytest.raises(UserError, match="makes no sense"):
        Shards.of(found, tmp_path / "model.pt")


# --- fairseq's transformer ---


def theirs() -> dict[str, Any]:
    sizes = {
        f"{side}_{size}": 8 for side in ("encoder", "decoder") for size in ("embed_dim", "ffn_embed_dim", "layers")
    }
    return {"arch": "transformer_iwslt_de_en", **sizes, "encoder_learned_pos": False, "criterion": "x", "lr": [1]}


@pytest.mark.parametrize("old", [False, True])
def test_of_fairseqs_transformer_only_what_converting_needs_is_taken(old: bool) -> None:
    model, task = theirs(), {"data": "/data", "lang_pairs": "aa-en", "eval_bleu_args": "{}"}
    if old:
        settings = {"args": Namespace(**model, **task, task="translation")}
    else:
        settings = {"cfg": {"model": Namespace(**model), "task": {**task, "_name": "translation"}}}
    found = checked_state({**settings, "model": {"w": torch.zeros(1)}}, FILE, foreign=True)
    wanted = {"_name": model.pop("arch"), **model}
    del wanted["criterion"], wanted["lr"]
    assert found["args"] is None and found["cfg"]["model"] == wanted
    assert found["cfg"]["task"] == {"_name": "translation", "data": "/data", "lang_pairs": "aa-en"}


@pytest.mark.parametrize(
    "change",
    [{"arch": "transformer; x"}, {"arch": "fconv"}, {"encoder_layers": "[(1, 1)]"}, {"encoder_embed_dim": 10**9}]
    + [
        {"adaptive_softmax_cutoff": Namespace(a=1)},
        {"data": "${oc.env:HOME}"},
        {"lang_pairs": [1]},
        {"langs": {"a": 1}},
        {"dropout": float("inf")},
    ],
)
def test_what_no_transformer_has_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^elsewhere.pt: [ -~]*$"):
        checked_state({"args": Namespace(**theirs() | change), "model": {}}, FILE, foreign=True)


def test_a_trained_model_loads_as_ever(trained_run: TrainedRun) -> None:
    whole = torch.load(trained_run.folder / "checkpoint_last.pt", weights_only=True)
    loaded = load_model(trained_run.folder / "checkpoint_last.pt", device="cpu")
    assert all(torch.equal(weight, whole["model"][name]) for name, weight in loaded.model.state_dict().items())
