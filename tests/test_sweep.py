"""Each job of a multirun has a folder of its own, known before the first one starts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from smoe_mt.errors import UserError
from smoe_mt.launch import compose
from smoe_mt.paths import configs
from smoe_mt.sweep import with_folders

COMPOSE = partial(compose, configs(), "quickstart")


def folders(overrides: Sequence[str], *jobs: tuple[str, ...]) -> list[str]:
    """Where each job keeps its checkpoints, and where Hydra keeps the job's log."""
    added = [each for each in with_folders(overrides, COMPOSE) if each not in overrides]
    found = []
    for job in itertools.product(*jobs):
        cfg = COMPOSE([*job, *added])
        HydraConfig.instance().set_config(cfg)
        found.append(cfg.checkpoint.save_dir)
        assert f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}" == cfg.checkpoint.save_dir
        HydraConfig.instance().cfg = None
    return found


def test_folders_differ_by_all_that_is_swept() -> None:
    models, seeds = ("model=dense", "model=smoe_2_2"), ("common.seed=1", "common.seed=2")
    assert folders(["model=dense,smoe_2_2", "common.seed=1,2"], models, seeds) == [
        "runs/quickstart/dense/seed1",
        "runs/quickstart/dense/seed2",
        "runs/quickstart/smoe_2_2/seed1",
        "runs/quickstart/smoe_2_2/seed2",
    ]


def test_lists_and_words_give_readable_names() -> None:
    strata, activations = ("model.strata=[1,3]", "model.strata=[2,2]"), ("model.activation_fn=relu",)
    assert folders(["model.strata=[1,3],[2,2]", "model.activation_fn=relu,gelu"], strata, activations) == [
        "runs/quickstart/smoe_2_6/strata1-3/activation_fn-relu",
        "runs/quickstart/smoe_2_6/strata2-2/activation_fn-relu",
    ]


def test_a_folder_that_tells_the_jobs_apart_stays() -> None:
    overrides = [
        "model=dense,smoe_2_2",
        "common.seed=1,2",
        "checkpoint.save_dir='r/${hydra:runtime.choices.model}${common.seed}'",
    ]
    assert with_folders(overrides, COMPOSE)[: len(overrides)] == overrides
    assert with_folders(["model=dense,smoe_2_2"], COMPOSE) == ["model=dense,smoe_2_2"]


@pytest.mark.parametrize("folder", ["r/", "/tmp/new runs/", "", "r/dense-"])
def test_logs_lie_beside_the_checkpoints_where_the_user_has_named_the_folders(folder: str) -> None:
    pattern = f"checkpoint.save_dir='{folder}seed${{common.seed}}'"
    added = with_folders(["common.seed=1,2", pattern], COMPOSE)[2:]
    cfg = COMPOSE(["common.seed=2", pattern, *added])
    HydraConfig.instance().set_config(cfg)
    logs = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
    HydraConfig.instance().cfg = None
    assert logs == Path(f"{folder}seed2")


def test_hydras_own_folders_stay_as_the_user_has_named_them() -> None:
    overrides = ["common.seed=1,2", "checkpoint.save_dir='r/${common.seed}'", "hydra.sweep.dir=logs"]
    assert with_folders(overrides, COMPOSE) == overrides


@pytest.mark.parametrize(
    "overrides",
    [["common.seed=1,2", "checkpoint.save_dir=r"], ["common.seed=1,1"]],
    ids=["of the user", "equal jobs"],
)
def test_two_jobs_in_one_folder_are_refused(overrides: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"two jobs of this multirun, common.seed=1 and common.seed=.*put what you sweep into it"
    ):
        with_folders(overrides, COMPOSE)
