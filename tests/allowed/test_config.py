"""The doors: overrides one by one, whole configurations, flags of fairseq's command lines."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
from fairseq import options
from omegaconf import OmegaConf

from smoe_mt import launch, register
from smoe_mt.allowed.config import _warn_once, check_config, check_flags
from smoe_mt.allowed.keys import CRITERION, KEYS, MODEL, TASK
from smoe_mt.allowed.overrides import checked, first_of_sweeps
from smoe_mt.criterions.config import StratifiedRoutingConfig
from smoe_mt.errors import UserError
from smoe_mt.models.config import SMoETransformerConfig
from smoe_mt.moe import SYSTEMS
from smoe_mt.paths import configs
from smoe_mt.ranges import ranges_of
from smoe_mt.tasks.config import ManyToManyTranslationConfig
from smoe_mt.training.own_settings import OWN_SETTINGS

NONSENSE = [
    "criterion.label_smoothing=2",
    "optimizer.adam_betas=(-1,0.5)",
    "optimizer.adam_betas=[0.9]",
    "optimization.lr=[1e30]",
    "optimization.lr=abc",
    "optimization.clip_norm=nan",
    "optimization.max_update=-1",
    "++generation.lenpen=nan",
    "dataset.max_tokens=99999999999",
    "model.dropout=[0.1]",
    "model.strata=[4,0]",
    "common.seed=-1",
    "checkpoint.optimizer_overrides=abc",
    "lr_scheduler._name=linear",
    "task.data=",
]


@pytest.mark.parametrize("override", NONSENSE)
def test_nonsense_is_told_with_key_value_and_what_is_allowed(override: str) -> None:
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(UserError, match=rf"^{key}=.*: it must be ") as caught:
        checked([override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "as_hydra_reads_it"),
    [
        ("optimization.lr=0.1", "optimization.lr=[0.1]"),
        ("+optimization.update_freq=4", "+optimization.update_freq=[4]"),
        ("model.strata=4,12", "model.strata=[4,12]"),
        ("optimizer.adam_betas=(0.9,0.98)", "optimizer.adam_betas=[0.9,0.98]"),
        ("task.directions=a-b,b-a", "task.directions='a-b,b-a'"),
        ("task.directions=[a-b,b-a]", "task.directions='a-b,b-a'"),
        ("task.data=it's(1)", "task.data='it\\'s(1)'"),
        ("task.data=007", "task.data='007'"),
        ("task.data=a=b", "task.data='a=b'"),
        ("optimization.lr=[0.1]", "optimization.lr=[0.1]"),
        ("optimization.max_update=${x.y}", "optimization.max_update=${x.y}"),
        ("model=dense", "model=dense"),
        ("~model.dropout", "~model.dropout"),
    ],
)
def test_what_hydra_would_misread_is_put_right(override: str, as_hydra_reads_it: str) -> None:
    assert checked([override]) == [as_hydra_reads_it]
    assert checked([as_hydra_reads_it]) == [as_hydra_reads_it]


def test_each_value_of_a_sweep_is_checked() -> None:
    assert checked(["optimization.lr=0.1,0.2"], multirun=True) == ["optimization.lr=[0.1],[0.2]"]
    with pytest.raises(UserError, match="model.dropout=7"):
        checked(["model.dropout=0.1,7"], multirun=True)
    assert first_of_sweeps(["model=a,b", "x=range(3,5)", "y=1", "z=interval(0,1)"]) == ["model=a", "x=3", "y=1"]


@pytest.mark.parametrize("text", ["x", "", "a=[", "a=b\nc", "\udcff=1"])
def test_what_is_no_override(text: str) -> None:
    with pytest.raises(UserError):
        checked([text])


def test_overrides_are_checked_without_torch() -> None:
    program = "import sys; from smoe_mt.allowed.overrides import checked; checked(['a.b=1']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("keys", "dataclass"),
    [(MODEL, SMoETransformerConfig), (TASK, ManyToManyTranslationConfig), (CRITERION, StratifiedRoutingConfig)],
)
def test_every_setting_of_ours_is_in_the_table(keys: Any, dataclass: type) -> None:
    by_fairseq = {
        "_name",
        "activation_fn",
        "moe",
        "moe_backend",
        "seed",
        "train_subset",
    }  # its choices, or keys of its own
    declared = {field.name for field in fields(dataclass) if "range" in field.metadata or field.type is str}
    declared |= {field.name for system in SYSTEMS.values() if system.options for field in fields(system.options)}
    assert {field.name for field in fields(dataclass)} - by_fairseq - declared <= set(keys)


@pytest.mark.parametrize("config", ["quickstart", "m4", "m15", "opus100"])
def test_our_configs_are_allowed_and_each_key_is_in_the_table(config: str) -> None:
    composed = launch.compose(configs(), config)
    declared = {f"{group}.{name}" for group, own in OWN_SETTINGS.items() for name in ranges_of(own, {})}
    for group in (
        "common",
        "task",
        "model",
        "criterion",
        "optimizer",
        "lr_scheduler",
        "optimization",
        "dataset",
        "checkpoint",
    ):
        given = OmegaConf.load(configs() / f"{config}.yaml").get(group, {})
        assert {f"{group}.{name}" for name in given if name != "_name"} <= set(KEYS) | declared
    check_config(composed, OWN_SETTINGS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.encoder_attention_heads=3"], r"model\.encoder_embed_dim=64 is no multiple of .*heads=3"),
        (["common.tpu=true"], "common.tpu=true: it must be false"),
        (["common.fp16=true", "common.bf16=true"], "common.fp16 and common.bf16: choose one"),
        (
            ["common.memory_efficient_fp16=true"],
            "common.memory_efficient_fp16: optimizer._name=fused_adam needs weights in float32",
        ),
        (["common.memory_efficient_bf16=true"], "choose optimizer._name=adam, or common.bf16"),
        (["dataset.max_tokens=null"], "how large is a batch"),
        (["+lr_scheduler.end_learning_rate=1"], "end_learning_rate=1 is above the peak"),
        (["dataset.shard_id=1"], "it must be below dataset.num_shards, 1"),
        (["optimization.max_update=${oc.env:HOME}"], "optimization.max_update"),
        (["model.dropuot=0.1"], "model.dropuot: there is no such setting .did you mean model.dropout"),
        (["task.data=p/${x}"], r"task.data=p/\$\{x\}: .* this one leads nowhere"),
    ],
)
def test_what_keys_say_together(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch.compose(configs(), "quickstart", overrides)


def test_a_warm_up_longer_than_the_training_is_said_once() -> None:
    _warn_once.cache_clear()
    short = ["optimization.max_update=10"]
    with pytest.warns(UserWarning, match="warmup_updates=8,000: the schedule ends after 10 updates") as said:
        assert launch.compose(configs(), "m4", short) == launch.compose(configs(), "m4", short)
    assert sum("warmup_updates" in str(one.message) for one in said) == 1


@pytest.mark.parametrize("content", ["a: [", "- a\n", "\x00", "[" * 20_000, "model: 3\n"])
def test_a_file_that_is_no_config(tmp_path: Any, content: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        launch.compose(tmp_path, "mine")
    assert "\n" not in str(caught.value)


def flags_of(*flags: str) -> Any:
    register()
    return options.parse_args_and_arch(options.get_training_parser("many_to_many_translation"), ["data", *flags])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "abc"], "argument --lr: 'abc' cannot be read"),
        (["--lr", "1e30"], r"--lr \[1e\+30\]: it must be a number"),
        (["--clip-norm", "nan"], "--clip-norm nan: it must be a number from 0"),
        (["--max-update", "x"], "argument --max-update: 'x' cannot be read|argument --max-update: invalid"),
        (["--max-update", "-1"], "--max-update -1: it must be a whole number from 0"),
        (["--batch-size-valid", "null"], "--batch-size-valid null: it must be a whole number from 1"),
        (["--no-such-flag", "1"], "unrecognized arguments: --no-such-flag"),
    ],
)
def test_flags_of_fairseq_are_told_in_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        flags_of("--arch", "smoe_transformer_tiny", *flags)
    assert "\n" not in str(caught.value)


def test_flags_that_are_allowed() -> None:
    args = flags_of("--arch", "smoe_transformer_tiny", "--lr", "0.1,0.2", "--strata", "2,2")
    assert args.lr == [0.1, 0.2]
    check_flags(vars(args))


@pytest.mark.parametrize("flag", ["--tensorboard-logdir", "--save-dir", "--init-experts-from"])
def test_a_flag_refers_to_no_other_setting(flag: str) -> None:
    with pytest.raises(UserError, match=rf"{flag} \$\{{oc.env:HOME\}}: it must be text without"):
        flags_of("--arch", "smoe_transformer_tiny", flag, "${oc.env:HOME}")
