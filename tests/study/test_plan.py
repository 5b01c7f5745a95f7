"""Plans: those of the package, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.analysis.cost import cost_of
from smoe_mt.errors import UserError
from smoe_mt.launch import compose
from smoe_mt.paths import configs
from smoe_mt.study.plan import known_plans, read_plan
from smoe_mt.study.stages import Setup, chain_of


@pytest.mark.parametrize("name", known_plans())
def test_every_item_of_a_plan_is_a_training(name: str) -> None:
    plan = read_plan(name)
    for items in plan.systems.values():
        compose(configs(), plan.config, items[0].overrides)


def test_the_wide_dense_model_has_the_flops_of_smoe() -> None:
    plan = read_plan("claim")
    flops = {}
    for system in ("dense_wide", "smoe_2_2_2_2"):
        model = compose(configs(), plan.config, plan.systems[system][0].overrides).model
        flops[system] = cost_of(model, 8008).flops_per_token
    assert flops["dense_wide"] == pytest.approx(flops["smoe_2_2_2_2"], rel=0.002)


def test_another_plans_runs_are_used_where_they_lie() -> None:
    (item, *_) = read_plan("width").systems["smoe_2_2_2_2"]
    assert item.folder(Path("runs")) == Path("runs/claim/smoe_2_2_2_2/seed1")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("[vanilla, dense, H1]", "[vanila, dense, H1]", "'vanila' is compared and is no system"),
        ("seeds: [1, 2, 3]", "seeds: [1, 1]", "seeds must be"),
        ("corpus: m4-8k", "corpus: m5", "no corpus 'm5'"),
        ("corpus: m4-8k", "corpus: m4-8k\nmeasure: speed", "measure must be scores or loss"),
        ("config: quickstart", "config: [quickstart]", "mine.yaml: config is of another form"),
        ("classes:", "klasses:", "mine.yaml: 'klasses' is no part of a plan: there are like, config"),
        ("config: quickstart\n", "", "mine.yaml: config is missing"),
        ("  vanilla: [", "  ../vanilla: [", "letters, digits"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (configs() / "study" / "claim.yaml").read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_plan(str(tmp_path / "mine.yaml"))


def test_overrides_of_a_plan_hold_for_all_of_its_systems() -> None:
    plan = read_plan("causes")
    assert all("optimization.max_update=1500" in item.overrides for item in plan.items)


def test_a_systems_own_overrides_go_before_those_of_its_plan() -> None:
    plan = read_plan("causes")
    assert compose(configs(), plan.config, plan.systems["smoe_2_2_2_2"][0].overrides).optimization.lr == [0.004]
    assert compose(configs(), plan.config, plan.systems["lr_8e-3"][0].overrides).optimization.lr == [0.008]


def test_a_plan_of_another_config_takes_no_schedule_from_the_plan_it_is_like() -> None:
    for name in ("systems_paper", "systems_small"):
        overrides = [one for item in read_plan(name).items for one in item.overrides]
        assert not any(one.startswith("optimization.") for one in overrides), name


MADE = """
config: quickstart
corpus: m4-8k
seeds: [1]
classes: {}
systems:
  vanilla: [model=vanilla]
  pruned: {from: vanilla, edit: [prune, --experts, "4"]}
  contrast: {from: vanilla, evaluate: [--contrast, "0.5"]}
comparisons: []
"""


def test_what_is_made_of_another_run_follows_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MADE)
    plan, setup = read_plan(str(tmp_path / "mine.yaml")), Setup(tmp_path / "runs", tmp_path / "data")
    _, pruned, contrast = plan.items
    edit, evaluate = chain_of(plan, pruned, setup, ("train", "evaluate", "analyse"))
    trained = f"{tmp_path}/runs/mine/vanilla/seed1/checkpoint_last.pt"
    assert edit.command[:4] == ("checkpoint", "prune", trained, f"{tmp_path}/runs/mine/pruned/seed1/checkpoint_last.pt")
    assert evaluate.command[1] == edit.command[3]
    (evaluate,) = chain_of(plan, contrast, setup, ("train", "evaluate", "analyse"))
    assert evaluate.command[1] == trained and "--contrast" in evaluate.command


def test_a_plan_takes_what_it_does_not_say_from_another_one(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MADE)
    (tmp_path / "mine.yaml").write_text("like: base\nconfig: m4\nseeds: [2]\nsystems: {vanilla: [model=vanilla_32]}\n")
    plan = read_plan(str(tmp_path / "mine.yaml"))
    assert (plan.config, plan.corpus, plan.seeds) == ("m4", "m4-8k", (2,))
    assert [*plan.systems] == ["vanilla", "pruned", "contrast"]
    assert plan.systems["vanilla"][0].overrides == ("model=vanilla_32",)


@pytest.mark.parametrize("like", ["none", "mine", "[base]"])
def test_a_plan_like_one_that_is_not_there_is_refused(tmp_path: Path, like: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"like: {like}\n")
    with pytest.raises(UserError, match="there is no other plan"):
        read_plan(str(tmp_path / "mine.yaml"))


def test_what_is_made_of_no_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MADE.replace("from: vanilla, evaluate", "from: pruned, evaluate"))
    with pytest.raises(UserError, match="'contrast' is to be made from 'pruned'"):
        read_plan(str(tmp_path / "mine.yaml"))
