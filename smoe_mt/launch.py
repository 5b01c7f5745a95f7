"""``smoe-mt train``: fairseq's Hydra training with the plugin and its packaged configs already named."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from smoe_mt.allowed.config import check_config as check_settings
from smoe_mt.allowed.keys import KEYS
from smoe_mt.allowed.kinds import is_path, shown
from smoe_mt.allowed.names import check_names, did_you_mean, known_settings, unknown_setting
from smoe_mt.allowed.overrides import checked, first_of_sweeps, quoted
from smoe_mt.errors import UserError
from smoe_mt.inputs import no_such
from smoe_mt.library_messages import NOT_THERE, SEARCH_PATH
from smoe_mt.paths import configs, expanded, user_dir
from smoe_mt.registration import register
from smoe_mt.sweep import with_folders

if TYPE_CHECKING:
    from omegaconf import DictConfig

DEFAULT_CONFIG = "quickstart"
FULL_ERROR = "HYDRA_FULL_ERROR"
# Hydra's handler of the console, the class that it has where nobody chose another, and what it is replaced with.
CONSOLE, PLAIN = "hydra.job_logging.handlers.console.class", "logging.StreamHandler"
CONSOLE_HANDLER = "smoe_mt.training.console.ConsoleHandler"
EXAMPLES = """examples:
  smoe-mt train model=smoe_2_2 task.data=data/nordic checkpoint.save_dir=runs/nordic
  smoe-mt train --config m4 -m model=dense,vanilla,smoe_4_4 common.seed=1,2 task.data=data/m4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="name of a config (default: %(default)s)")
    parser.add_argument("--config-dir", help="a folder of your own configs (default: those of smoe_mt)")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="train once for each combination, as in model=dense,vanilla"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, such as model=smoe_4_4 task.data=data/m4"
    )


def run(args: argparse.Namespace) -> None:
    """Train. Raises UserError for a config or an override that Hydra cannot use, and for what the task refuses."""
    folder = config_folder(args.config_dir)
    overrides = checked_overrides(folder, args.config, args.overrides, args.multirun)
    composed = compose(folder, args.config, first_of_sweeps(overrides) if args.multirun else overrides)
    if args.multirun:
        overrides = with_folders(overrides, partial(compose, folder, args.config))
    overrides = [*home_folders(composed, overrides), *overrides]
    _train(command_line(folder, args.config, [*console(composed), *addable(overrides)], args.multirun))


def console(composed: DictConfig) -> list[str]:
    """The override that makes the console show lines for people, the log file all; none where a config logs in its own way."""
    from omegaconf import OmegaConf

    return [f"{CONSOLE}={CONSOLE_HANDLER}"] if OmegaConf.select(composed, CONSOLE) == PLAIN else []


def config_folder(given: str | None) -> Path:
    """The folder of configs that was given, or that of the package."""
    return Path(expanded(given)).absolute() if given else configs()


def check_config(folder: Path, config: str) -> None:
    """UserError, naming the known ones, unless the folder has such a config."""
    if not folder.is_dir():
        raise UserError(f"{no_such(folder, 'folder of configs')} (--config-dir)")
    if not (folder / f"{config}.yaml").is_file():
        names = _names(folder)
        raise UserError(
            f"no config {config!r} in {folder}{did_you_mean(config, names)}; there are {', '.join(names) or 'none'}"
        )


def checked_overrides(folder: Path, config: str, overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """The overrides in Hydra's grammar. UserError for an unknown config, key or value, before anything slow is imported."""
    check_config(folder, config)
    found = checked(overrides, multirun)
    check_names(found, folder, folder == configs(), multirun)
    return found


def compose(folder: Path, config: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that a training would start with, Hydra's own part included, without starting it.

    Raises:
        UserError: no such config, overrides that Hydra cannot use, or a value that makes no sense.
    """
    overrides = checked_overrides(folder, config, overrides)
    import hydra
    from fairseq.dataclass.initialize import add_defaults, hydra_init
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register()
    from smoe_mt.training.own_settings import OWN_SETTINGS

    hydra_init(config)
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(folder), version_base="1.1"):  # that of fairseq-hydra-train
            composed = hydra.compose(config, addable(overrides), return_hydra_config=True)
            add_defaults(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise _unknown(error, folder) or UserError(_message(error)) from error
    except Exception as error:  # of a file that is no config; Hydra lets whatever its parser says pass
        raise UserError(f"{folder}: {config}.yaml or what it names cannot be read: {_message(error)}") from error
    check_named(composed)
    check_settings(composed, OWN_SETTINGS)
    return composed


def check_named(composed: DictConfig) -> None:
    """UserError for a config that does not say which task and which model."""
    for group in ("task", "model"):
        part = composed.get(group)
        if not (isinstance(part, Mapping) and isinstance(part.get("_name"), str)):
            raise UserError(f"the config has no {group}._name, so it is unknown which {group} is meant")
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY

    name = composed.model["_name"]
    if name not in ARCH_MODEL_REGISTRY and name not in MODEL_REGISTRY:
        raise UserError(f"model._name={shown(name)}: there is no such model; ours is smoe_transformer")


def command_line(folder: Path, config: str, overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """What ``fairseq-hydra-train`` is called with. An override of the user's comes last, so it wins.

    UserError where the plugin or the configs lie in a folder that Hydra cannot name.
    """
    for place in (folder, user_dir()):
        if "${" in str(place):
            raise UserError(f"{place}: Hydra takes ${{ for a reference to a setting; rename that folder")
    named = (
        [] if any("common.user_dir=" in each for each in overrides) else [f"common.user_dir={quoted(str(user_dir()))}"]
    )
    mode = ["--multirun"] if multirun else []
    return ["--config-dir", str(folder), "--config-name", config, *mode, *named, *overrides]


def addable(overrides: Sequence[str]) -> list[str]:
    """The overrides with Hydra's ``++`` before each known setting: configs do not list all of them, and without it Hydra refuses
    what a config does not list, and with ``+`` what it does.
    """
    known = _settings()
    return [f"++{each.lstrip('+')}" if each.partition("=")[0].lstrip("+") in known else each for each in overrides]


def home_folders(composed: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Overrides for the paths that a config begins with ``~``, which Hydra would take for the name of a folder."""
    from omegaconf import OmegaConf

    given = {each.partition("=")[0].lstrip("+") for each in overrides}
    plain = OmegaConf.to_container(composed, resolve=False)
    found = []
    for key in (key for key, kind in KEYS.items() if is_path(kind) and key not in given):
        value: object = plain
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, str) and expanded(value) != value:
            found.append(f"{key}={quoted(expanded(value))}")
    return found


def _settings() -> set[str]:
    """The keys of the table and of our own model, task and criterion, options of systems included."""
    from smoe_mt.training.own_settings import OWN_SETTINGS

    own = {f"{name}.{field.name}" for name, section in OWN_SETTINGS.items() for field in fields(section)}
    return {*own, *(key for key in KEYS if not key.startswith("hydra."))}


def _unknown(error: Exception, folder: Path) -> UserError | None:
    """The error for a setting that Hydra does not know, now that the options of all systems are known."""
    found = NOT_THERE.match(str(error))
    return unknown_setting(found[1], _settings() | known_settings(folder)) if found else None


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _train(arguments: list[str]) -> None:
    from fairseq_cli.hydra_train import cli_main
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from smoe_mt.training.console import ConsoleHandler

    # fairseq looks for the parts of a --user-dir only where it is the one to import it, and here it is imported already.
    register()
    # Without this Hydra swallows the exception and ends the process itself, with a trace for a user's mistake.
    full_error, before = os.environ.get(FULL_ERROR), sys.argv
    os.environ[FULL_ERROR] = "1"
    sys.argv = ["smoe-mt train", *arguments]
    try:
        cli_main()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_message(error)) from error
    except ValueError as error:  # of logging, which does not say why it cannot write into the folder
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        raise
    finally:
        if ConsoleHandler.line is not None:  # what comes next is not of the training
            ConsoleHandler.line.terminal.leave()
            ConsoleHandler.line = None
        sys.argv = before
        if full_error is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = full_error


def _message(error: Exception) -> str:
    """What Hydra says, on one line and without its search path."""
    message, _, _ = str(error).partition(SEARCH_PATH)
    return " ".join(message.split())
