"""``smoe-mt path``: folders of the plugin, its configs and its scripts, and what it changes in other libraries."""

from __future__ import annotations

import argparse

from smoe_mt.paths import configs, scripts, user_dir

PLACES = {"user-dir": user_dir, "configs": configs, "scripts": scripts}
PATCHES = "patches"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = """examples:
  smoe-mt path configs
  fairseq-train DATA --user-dir "$(smoe-mt path user-dir)" ..."""
    parser.add_argument(
        "place",
        choices=[*PLACES, PATCHES],
        help="the folder to print; patches: the list of changes to other libraries, with reasons",
    )


def run(args: argparse.Namespace) -> None:
    """Print the folder, or the table. Raises UserError where this installation lacks the folder."""
    print(patch_table() if args.place == PATCHES else PLACES[args.place]())


def patch_table() -> str:
    """What `smoe_mt.register` and `smoe_mt.hf` change in other libraries, and which private parts are used; nothing is changed here."""
    from smoe_mt.fairseq_patches import IN_TRANSFORMERS, PATCHES, PRIVATE_USES, SETTINGS

    parts = [
        ("replaced", [(one.target, one.reason) for one in PATCHES]),
        ("set for the process", [(one.target, one.reason) for one in SETTINGS]),
        ("private parts in use", [(one.target, f"{one.reason} ({one.used_by})") for one in PRIVATE_USES]),
        (
            "changed in transformers by importing smoe_mt.hf",
            [(one.target, f"{one.reason} ({one.used_by})") for one in IN_TRANSFORMERS],
        ),
    ]
    return "\n\n".join(
        "\n".join([f"{title}:", *(f"  {target}\n      {reason}" for target, reason in rows)]) for title, rows in parts
    )
