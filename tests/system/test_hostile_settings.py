"""Settings of files from elsewhere build nothing but our own model and task, run nothing, and fill nothing in.

Every name of fairseq's models and tasks goes through the door; whole commands walk over every kind of file.
"""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

from smoe_mt import cli
from smoe_mt.checkpoints.checked import checked_state
from smoe_mt.checkpoints.schema import TASK
from smoe_mt.checkpoints.settings import own_architectures
from smoe_mt.checkpoints.writing import write_sharded
from smoe_mt.checksums import sealed
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import read_for_fairseq
from smoe_mt.models.smoe_transformer import SMoETransformerModel
from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationTask
from tests.conftest import TrainedRun
from tests.system.test_bad_checkpoints import READING, TRAINING, Arguments, in_a_process

OTHER_MODELS = sorted({*MODEL_REGISTRY, *ARCH_MODEL_REGISTRY} - own_architectures())
OTHER_TASKS = sorted(set(TASK_REGISTRY) - {TASK})
#: Settings that models, criterions and optimisers of fairseq evaluate.
EVALUATED = (
    *("conv_feature_layers", "conv_aggregator_layers", "encoder_layers", "decoder_layers", "encoder_attention"),
    *("decoder_attention", "character_filters", "pretrained", "self_attention", "project_input", "gated_attention"),
    *("downsample", "input_layers", "conv_layers", "latent_temp", "wer_args", "adam_betas", "adamax_betas"),
)
State = dict[str, Any]


def code(canary: Path) -> str:
    return f"__import__('pathlib').Path({str(canary)!r}).touch() or [(512, 10, 5)]"


@pytest.fixture(scope="module")
def sound(trained_run: TrainedRun) -> State:
    return torch.load(trained_run.folder / "checkpoint_last.pt", weights_only=True)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once a model or a task that is not ours was built, or a setting was evaluated."""
    path = tmp_path / "canary"

    def build(*_: Any, **__: Any) -> None:
        path.touch()
        raise RuntimeError("built")

    for model in {*MODEL_REGISTRY.values(), *ARCH_MODEL_REGISTRY.values()} - {SMoETransformerModel}:
        monkeypatch.setattr(model, "build_model", build)
    for task in {*TASK_REGISTRY.values()} - {ManyToManyTranslationTask}:
        monkeypatch.setattr(task, "setup_task", build)
    return path


def with_settings(state: State, section: str, values: dict[str, Any]) -> State:
    return {**state, "cfg": {**state["cfg"], section: {**state["cfg"][section], **values}}}


# --- every name, through the door ---


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_no_model_of_fairseqs_gets_through(name: str, sound: State, canary: Path) -> None:
    """Named in cfg or in args, with settings that it would evaluate, for translation and for converting."""
    hostile = {"_name": name, "arch": name, "task": TASK, **dict.fromkeys(EVALUATED, code(canary))}
    with pytest.raises(UserError, match="builds smoe_transformer"):
        checked_state({**sound, "cfg": {**sound["cfg"], "model": hostile}}, Path("x.pt"))
    with pytest.raises(UserError, match="no settings"):
        checked_state({**sound, "cfg": None, "args": Namespace(**hostile)}, Path("x.pt"))
    for state in (
        {**sound, "cfg": {"model": hostile}},
        {**sound, "cfg": None, "args": Namespace(**hostile)},
        {**sound, "cfg": {"model": Namespace(**hostile), "task": Namespace(**hostile)}},
    ):
        with pytest.raises(UserError, match=f"only the transformer|model.encoder_layers must be a whole number|{name}"):
            checked_state(state, Path("x.pt"), foreign=True)
    assert not canary.exists()


@pytest.mark.parametrize("name", OTHER_TASKS)
def test_no_task_of_fairseqs_gets_through(name: str, sound: State, canary: Path) -> None:
    with pytest.raises(UserError, match=f"a model of the task {name}, and smoe_mt reads those of"):
        checked_state(with_settings(sound, "task", {"_name": name, "data": code(canary)}), Path("x.pt"))
    assert not canary.exists()


@pytest.mark.parametrize("name", sorted(set(CRITERION_REGISTRY) - {"stratified_routing"}))
def test_no_criterion_that_could_harm_gets_through(name: str, sound: State, canary: Path) -> None:
    hostile = {"_name": name, **dict.fromkeys(EVALUATED, code(canary))}
    state = {**sound, "cfg": {**sound["cfg"], "criterion": hostile}}
    try:
        assert checked_state(state, Path("x.pt"))["cfg"]["criterion"] is None
    except UserError as error:
        assert "is no setting of this version" in str(error)


@pytest.mark.parametrize("section", ["optimizer", "lr_scheduler", "bpe", "tokenizer", "scoring", "anything"])
def test_other_sections_keep_nothing_unknown(section: str, sound: State, canary: Path) -> None:
    state = {**sound, "cfg": {**sound["cfg"], section: {"_name": "adam", "wer_args": code(canary)}}}
    found = checked_state(state, Path("x.pt"))["cfg"].get(section)
    assert not found or found == {"_name": "adam"}


def test_args_are_ignored_beside_sound_settings(sound: State) -> None:
    state = checked_state({**sound, "args": Namespace(arch="fconv", task="translation")}, Path("x.pt"))
    assert state["args"] is None and state["cfg"]["model"] == sound["cfg"]["model"]


# --- whole commands over every kind of file ---


def one_file(state: State, folder: Path) -> Path:
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def old_file(state: State, folder: Path) -> Path:
    torch.save(state, folder / "model.pt", _use_new_zipfile_serialization=False)
    return folder / "model.pt"


def sharded(state: State, folder: Path) -> Path:
    write_sharded(state, folder / "model.pt")
    return folder / "model.pt"


Kind = Callable[[State, Path], Path]
KINDS: list[Kind] = [one_file, old_file, sharded]


@pytest.fixture(scope="module")
def exported(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    assert cli.main(["export", str(trained_run.folder), str(out)]) == 0
    return out


@pytest.fixture(scope="module", autouse=True)
def everything_imported() -> None:
    import fairseq_cli.generate
    import fairseq_cli.hydra_train
    import fairseq_cli.validate  # noqa: F401

    import smoe_mt.analysis.command
    import smoe_mt.evaluation.command
    import smoe_mt.report.command  # noqa: F401


def fairseqs(module: str, *options: str) -> Callable[[list[str]], int]:
    """A command line of fairseq's, which leaves it to Python to print its errors."""

    def main(arguments: list[str]) -> int:
        sys.argv = [module, *arguments, "--task", TASK, "--cpu", "--max-tokens", "500", *options]
        try:
            sys.modules[f"fairseq_cli.{module}"].cli_main()
        except Exception as error:  # noqa: BLE001  (as Python does)
            sys.excepthook(type(error), error, error.__traceback__)
            return 2
        return 0

    return main


VERBS: dict[str, Arguments] = {
    **READING,
    "flops": lambda file, data, out: ["flops", f"{file}", "--device", "cpu"],
    **TRAINING,
    "restore": lambda file, data, out: [
        *TRAINING["finetune"](file, data, out)[:-1],
        f"checkpoint.restore_file={file}",
    ],
    "fairseq-generate": lambda file, data, out: [f"{data}", "--path", f"{file}"],
    "fairseq-validate": lambda file, data, out: [f"{data}", "--path", f"{file}"],
}
del VERBS["resume"]  # its checkpoint has a fixed name: "restore" gives it one
MAINS = {"fairseq-generate": fairseqs("generate"), "fairseq-validate": fairseqs("validate", "--valid-subset", "valid")}


def check(verb: str, file: Path, trained_run: TrainedRun, home: Path, canary: Path, secret: str = "") -> str:
    out = home / "out"
    out.mkdir()
    shutil.copy(trained_run.folder / "checkpoint_last.pt", out / "good.pt")
    code_, errors = in_a_process(VERBS[verb](file, trained_run.data, out), home, MAINS.get(verb, cli.main))
    assert not canary.exists(), errors
    assert code_ == 2 and "Traceback" not in errors, errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and file.parent.name in lines[0], errors
    assert not secret or secret not in errors + (home / "stdout").read_text()
    assert sorted(path.name for path in out.rglob("*") if path.is_file() and path.suffix != ".log") == ["good.pt"]
    return lines[0]


def named_model(state: State, canary: Path) -> State:
    return {**state, "cfg": {**state["cfg"], "model": {"_name": "wav2vec2", "conv_feature_layers": code(canary)}}}


@pytest.mark.parametrize("kind", KINDS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("verb", list(VERBS))
def test_no_verb_builds_what_a_file_names(
    verb: str, kind: Kind, sound: State, trained_run: TrainedRun, tmp_path: Path, canary: Path
) -> None:
    (tmp_path / "hostile").mkdir()
    check(verb, kind(named_model(sound, canary), tmp_path / "hostile"), trained_run, tmp_path, canary)


def another_task(state: State, canary: Path) -> State:
    return with_settings(state, "task", {"_name": "translation_lev"})


def args_alone(state: State, canary: Path) -> State:
    args = Namespace(arch="fconv", task="translation", encoder_layers=code(canary), data=state["cfg"]["task"]["data"])
    return {**{key: value for key, value in state.items() if key != "cfg"}, "args": args}


def interpolated(state: State, canary: Path) -> State:
    return with_settings(state, "model", {"init_experts_from": "${oc.env:SECRET}"})


def interpolated_elsewhere(state: State, canary: Path) -> State:
    return with_settings(state, "optimization", {"lr": ["${oc.env:SECRET}"]})


def endless(state: State, canary: Path) -> State:
    values: list[Any] = []
    values.append(values)
    return with_settings(state, "common", {"user_dir": values})


def many_layers(state: State, canary: Path) -> State:
    return with_settings(state, "model", {"encoder_layers": 100_000})


def many_positions(state: State, canary: Path) -> State:
    return with_settings(state, "model", {"max_source_positions": 10**9})


def wide(state: State, canary: Path) -> State:
    return with_settings(state, "model", {"decoder_ffn_embed_dim": 1_000_000, "num_experts": 60_000})


def negative(state: State, canary: Path) -> State:
    return with_settings(state, "model", {"encoder_embed_dim": -32})


def unknown_setting(state: State, canary: Path) -> State:
    return with_settings(state, "model", {"quant_noise": {"pq": code(canary)}})


HOSTILE = [another_task, args_alone, interpolated, interpolated_elsewhere, endless]
HOSTILE += [many_layers, many_positions, wide, negative, unknown_setting]
OF_CONVERT = (another_task, args_alone)  # it may convert them, where they are fairseq's transformer


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    "verb", ["translate", "inspect", "average", "convert", "export", "restore", "fairseq-validate"]
)
def test_no_verb_believes_hostile_settings(
    verb: str,
    hostile: Callable[[State, Path], State],
    sound: State,
    trained_run: TrainedRun,
    tmp_path: Path,
    canary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    (tmp_path / "hostile").mkdir()
    file = one_file(hostile(sound, canary), tmp_path / "hostile")
    check(verb, file, trained_run, tmp_path, canary, secret="s3cr3t")


@pytest.mark.parametrize("section, values", [
    ("model", {"_name": "wav2vec2"}),
    ("task", {"_name": "translation"}),
    ("model", {"init_experts_from": "${oc.env:HOME}"}),
    ("model", {"encoder_layers": 10**5}),
    ("optimization", {"lr": ["${oc.env:HOME}"]}),
    ("model", {"dropout": float("nan")}),
])  # fmt: skip
@pytest.mark.parametrize("verb", ["translate", "evaluate", "analyse", "export", "inspect", "convert", "flops"])
def test_an_exported_folder_is_not_believed(
    verb: str,
    section: str,
    values: dict[str, Any],
    exported: Path,
    trained_run: TrainedRun,
    tmp_path: Path,
    canary: Path,
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "hostile"))
    config = json.loads((folder / "config.json").read_text())
    config["config"][section] |= values | ({"conv_feature_layers": code(canary)} if "_name" in values else {})
    del config["sha256"]
    (folder / "config.json").write_text(json.dumps(sealed(config)))
    assert section in check(verb, folder / "model.safetensors", trained_run, tmp_path, canary)


def test_what_is_hostile_here_would_run_if_it_were_let(sound: State, trained_run: TrainedRun, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    file = one_file(named_model(sound, canary), tmp_path)
    state = checkpoint_utils.load_checkpoint_to_cpu.__wrapped__(str(file))
    with pytest.raises(Exception):  # noqa: B017  (of what runs after the code)
        checkpoint_utils.load_model_ensemble_and_task([str(file)], state=state)
    assert canary.exists()


# --- what is sound stays as it is ---


def test_fairseq_validates_a_sound_checkpoint(sound: State, trained_run: TrainedRun, tmp_path: Path) -> None:
    file = one_file(sound, tmp_path)
    code_, errors = in_a_process([f"{trained_run.data}", "--path", f"{file}"], tmp_path, MAINS["fairseq-validate"])
    assert code_ == 0, errors


def test_fairseq_validates_by_no_criterion_that_could_harm(
    sound: State, trained_run: TrainedRun, tmp_path: Path, canary: Path
) -> None:
    file = one_file(with_settings(sound, "criterion", {"_name": "ctc", "wer_args": code(canary)}), tmp_path)
    code_, errors = in_a_process([f"{trained_run.data}", "--path", f"{file}"], tmp_path, MAINS["fairseq-validate"])
    assert code_ == 2 and "error: the checkpoint's criterion is unknown to smoe_mt" in errors
    assert not canary.exists() and "Traceback" not in errors


def test_sound_settings_reach_fairseq_unchanged(sound: State, trained_run: TrainedRun) -> None:
    found = read_for_fairseq(trained_run.folder / "checkpoint_last.pt")["cfg"]
    for section in ("model", "task", "criterion", "optimizer", "lr_scheduler", "optimization", "dataset", "common"):
        assert dict(found[section]) == sound["cfg"][section]


def test_a_published_configuration_is_that_of_the_run(exported: Path, sound: State) -> None:
    config = json.loads((exported / "config.json").read_text())["config"]
    assert config["model"] == sound["cfg"]["model"]
    assert config["task"] == {**sound["cfg"]["task"], "data": None}
