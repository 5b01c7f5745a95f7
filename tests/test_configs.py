"""The configs of the benchmarks: what the paper says (section 3), and every row on each of them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoe_mt.criterions.config import StratifiedRoutingConfig
from smoe_mt.errors import UserError
from smoe_mt.launch import compose
from smoe_mt.models import SMoETransformerConfig
from smoe_mt.moe.structure import groups_by_side
from smoe_mt.paths import configs
from smoe_mt.tasks.config import ManyToManyTranslationConfig

BENCHMARKS = ("m4", "m15", "opus100")
ROWS = sorted(path.stem for path in (configs() / "model").glob("*.yaml"))
# d, FFN, heads, experts, temperature, peak learning rate, tokens an update
PAPER = {
    "m4": (512, 2048, 8, 8, 1.0, 8e-4, 13_000),
    "m15": (1024, 4096, 16, 16, 1.0, 8e-4, 13_000),
    "opus100": (1024, 4096, 16, 16, 5.0, 5e-4, 65_000),
}
TABLES = [
    "dense",
    "vanilla",
    "switch",
    "eom",
    "cmr",
    "stacking_2_4",
    "stacking_4_2",
    "smoe_4_4",
    "smoe_2_2_2_2",
    "smoe_4_12",
]
TABLES += ["smoe_12_4", "smoe_8_8", "smoe_4_4_8", "smoe_8_4_4", "smoe_4_4_4_4", "vanilla_32"]


def composed(config: str, *overrides: str) -> DictConfig:
    return compose(configs(), config, overrides)


def experts(model: Any) -> int:
    """Experts of a block."""
    groups = {sum(block) for blocks in groups_by_side(model).values() for block in blocks}
    return groups.pop() if groups else 0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_the_papers(name: str) -> None:
    cfg = composed(name, "model=vanilla")
    model, wanted = cfg.model, PAPER[name]
    for side in ("encoder", "decoder"):
        sizes = [model[f"{side}_{part}"] for part in ("embed_dim", "ffn_embed_dim", "attention_heads", "layers")]
        assert sizes == [*wanted[:3], 6]
        assert model[f"{side}_normalize_before"]
    assert (experts(model), cfg.task.sampling_temperature, cfg.optimization.lr[0]) == wanted[3:6]
    assert cfg.task.tokens_per_update == wanted[6]
    assert (model.moe_freq, model.dropout, model.attention_dropout, model.share_all_embeddings) == (2, 0.3, 0.1, True)
    assert (cfg.criterion.label_smoothing, cfg.criterion.balance_weight) == (0.1, 0.01)
    adam = cfg.optimizer
    assert (adam.adam_betas, adam.adam_eps, adam.weight_decay) == ("(0.9, 0.98)", 1e-6, 0)
    schedule = cfg.lr_scheduler
    assert (schedule._name, schedule.warmup_updates, cfg.optimization.max_update) == ("inverse_sqrt", 8000, 100_000)


def test_every_row_of_the_tables_is_there() -> None:
    assert set(TABLES) <= set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_only_what_it_changes(row: str) -> None:
    """So the size comes from the benchmark, and the experts of rows without strata too."""
    numbers = [int(n) for n in re.findall(r"\d+", row)]
    if "smoe" in row:
        wanted = sum(numbers)
    elif "stacking" in row:
        wanted = numbers[0] * numbers[1]
    else:
        # As many experts of sub-tokens as cost what 16 plain ones, or SMoE-4-4, do.
        own = {
            "dense": 0,
            "vanilla_32": 32,
            "mhmoe": 36,
            "stratified_mhmoe": 17,
            "stratified_pesc": 8,
            "stratified_hmoe": 8,
            "stratified_dynmoe": 8,
        }
        wanted = own.get(row, 16)
    model = composed("m15", f"model={row}").model
    assert (experts(model), model.encoder_embed_dim) == (wanted, 1024)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_small_scale_is_one_for_all_benchmarks(name: str) -> None:
    cfg = composed(name, "scale=small", "model=smoe_4_12")
    model = cfg.model
    assert (model.encoder_embed_dim, model.encoder_ffn_embed_dim, model.encoder_layers, model.moe_freq) == (
        256,
        1024,
        3,
        1,
    )
    assert (cfg.lr_scheduler._name, cfg.lr_scheduler.total_num_update) == (
        "polynomial_decay",
        cfg.optimization.max_update,
    )
    assert cfg.task.sampling_temperature == PAPER[name][4] and list(model.strata) == [4, 12]


@pytest.mark.parametrize(
    "file", sorted(configs().rglob("model/*.yaml")) + sorted(configs().rglob("scale/*.yaml")), ids=str
)
def test_every_key_of_a_row_has_a_comment(file: Path) -> None:
    inside = " *" if file.parent.name == "model" else ""  # of a row that sets other parts too
    lines = [line for line in file.read_text().splitlines() if re.match(rf"{inside}\w+: \S", line)]
    assert all("#" in line for line in lines), file


@pytest.mark.parametrize("row", ["hmoe", "stratified_hmoe"])
def test_a_row_may_set_the_criterion_and_an_override_still_wins(row: str) -> None:
    assert composed("m4", "model=dense").criterion.balance_weight == 0.01
    assert composed("m4", f"model={row}").criterion.balance_weight == 0
    assert composed("m4", f"model={row}", "criterion.balance_weight=0.02").criterion.balance_weight == 0.02


def folders(*overrides: str) -> list[str]:
    """Where a run, and a job of a multirun, keep their files."""
    cfg = composed(*overrides)
    HydraConfig.instance().set_config(cfg)
    try:
        sweep = cfg.hydra.sweep
        return [cfg.checkpoint.save_dir, cfg.hydra.run.dir, f"{sweep.dir}/{sweep.subdir}"]
    finally:
        HydraConfig.instance().cfg = None


def test_every_row_and_seed_has_a_folder_of_its_own() -> None:
    assert folders("m4", "model=dense", "common.seed=2") == ["runs/m4/paper/dense/seed2"] * 3
    assert folders("m15", "scale=small", "model=smoe_4_12") == ["runs/m15/small/smoe_4_12/seed1"] * 3
    assert folders("quickstart", "model=switch") == ["runs/quickstart/switch"] * 3


def test_an_unknown_row_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"model=smoe_9: there is no such model.*smoe_4_12"):
        composed("m4", "model=smoe_9")


def test_a_sweep_on_slurm_composes() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = composed("m15", "hydra/launcher=slurm", "model=smoe_4_12").hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (1, 1, 8)


def plain(value: Any) -> str | None:
    """A default as an override says it; None for one that it cannot say."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) or (isinstance(value, str) and value.isalnum()) else None


SETTINGS = [
    f"{section}.{field.name}={value}"
    for section, dataclass in (
        ("model", SMoETransformerConfig),
        ("task", ManyToManyTranslationConfig),
        ("criterion", StratifiedRoutingConfig),
    )
    for field in fields(dataclass)
    if field.name not in ("_name", "seed", "train_subset")
    for value in [plain(field.default)]
    if value is not None
]


@pytest.mark.parametrize("config", [*BENCHMARKS, "quickstart"])
def test_every_setting_of_ours_is_taken_without_a_plus(config: str) -> None:
    section, name = "criterion", "cmr_weight"
    cfg = composed(config, "model=smoe_4_4", *SETTINGS, f"{section}.{name}=0.5")
    assert cfg[section][name] == 0.5


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match="moe_backed"):
        composed("m4", "model.moe_backed=loop")


@pytest.mark.parametrize("config", [*BENCHMARKS, "quickstart"])
@pytest.mark.parametrize(
    "key", ["model.moe_backend", "model.moe_debug", "model.second_choice", "model.eom_p", "model.cpu_bf16"]
)
def test_documented_flags_are_in_the_file_for_fairseqs_own_command(config: str, key: str) -> None:
    """fairseq-hydra-train has read its overrides before it loads the plugin."""
    section, name = key.split(".")
    text = (configs() / f"{config}.yaml").read_text()
    assert re.search(rf"^{section}:.*(\n  .*)*\n  {name}: ", text, re.MULTILINE)
