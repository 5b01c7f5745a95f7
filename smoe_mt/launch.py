"""``smoe-mt train``: fairseq's Hydra training with the plugin and its packaged configs already named."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from smoe_mt import register
from smoe_mt.errors import UserError
from smoe_mt.paths import configs, user_dir

DEFAULT_CONFIG = "quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="name of a config (default: %(default)s)")
    parser.add_argument("--config-dir", help="folder of configs of your own (default: those of smoe_mt)")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="a training for each combination, as in model=dense,vanilla"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, such as model=dense")


def run(args: argparse.Namespace) -> None:
    """Train. Raises UserError for a config or an override that Hydra cannot use, and for what the task refuses."""
    folder = Path(args.config_dir).absolute() if args.config_dir else configs()
    if not (folder / f"{args.config}.yaml").is_file():
        raise UserError(f"no config {args.config!r} in {folder}: there are {', '.join(_names(folder)) or 'none'}")
    _train(command_line(folder, args.config, args.overrides, args.multirun))


def command_line(folder: Path, config: str, overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """What ``fairseq-hydra-train`` is called with. An override of the user's comes last, so it wins."""
    named = [] if any("common.user_dir=" in each for each in overrides) else [f"common.user_dir={user_dir()}"]
    mode = ["--multirun"] if multirun else []
    return ["--config-dir", str(folder), "--config-name", config, *mode, *named, *overrides]


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _train(arguments: list[str]) -> None:
    from fairseq_cli.hydra_train import cli_main
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # fairseq looks for the parts of a --user-dir only where it is the one to import it, and here it is imported already.
    register()
    # Without this Hydra swallows the exception and ends the process itself, with a trace for a user's mistake.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    before = sys.argv
    sys.argv = ["smoe-mt train", *arguments]
    # What Hydra says about its own next versions, to whoever wrote fairseq.
    warnings.filterwarnings("ignore", message=r"\s*(The version_base parameter|'.*' is validated against ConfigStore)")
    try:
        cli_main()
    except (HydraException, OmegaConfBaseException) as error:
        message, _, _ = str(error).partition("Config search path:")
        raise UserError(" ".join(message.split())) from error
    finally:
        sys.argv = before
