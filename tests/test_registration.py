"""Nothing of fairseq is changed but by `register`; tested in new processes, where nothing was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from smoe_mt.paths import user_dir

WATCHED = """
import sys
hook = sys.excepthook
def changed():
    import fairseq.checkpoint_utils, fairseq.trainer
    ours = {
        "Trainer": fairseq.trainer.Trainer.__module__ != "fairseq.trainer",
        "saving": "smoe_mt" in fairseq.checkpoint_utils.save_checkpoint.__code__.co_filename,
        "hook": sys.excepthook is not hook,
    }
    return [name for name, is_ours in ours.items() if is_ours]
"""


def changed_by(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"{WATCHED}\n{program}\nprint(changed())"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "program",
    [
        "import smoe_mt.moe; import fairseq",
        "import fairseq; import smoe_mt.moe",
        "import fairseq; from smoe_mt.moe import MoE; import fairseq_cli.train",
        "import fairseq; import smoe_mt.tasks.data_folder, smoe_mt.tasks.many_to_many_translation",
        "import fairseq; import smoe_mt.models, smoe_mt.criterions, smoe_mt.training.trainer",
        "import fairseq; from smoe_mt import Translator",
        "import smoe_mt.fairseq_patches",
        "import smoe_mt.cli; smoe_mt.cli.main(['path', 'patches'])",
    ],
)
def test_importing_changes_nothing(program: str) -> None:
    assert changed_by(program) == "[]"


def test_the_engine_brings_no_fairseq() -> None:
    program = "import sys, smoe_mt.moe; print([name for name in sys.modules if name.startswith('fairseq')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "program",
    [
        "import smoe_mt; smoe_mt.register(); smoe_mt.register()",
        f"from argparse import Namespace; from fairseq import utils; utils.import_user_module(Namespace(user_dir={str(user_dir())!r}))",
    ],
    ids=["register", "--user-dir"],
)
def test_registering_makes_task_model_and_criterion_known(program: str) -> None:
    known = (
        "\nfrom fairseq.criterions import CRITERION_REGISTRY\nfrom fairseq.models import ARCH_MODEL_REGISTRY\n"
        "from fairseq.tasks import TASK_REGISTRY\nassert 'many_to_many_translation' in TASK_REGISTRY\n"
        "assert 'smoe_transformer' in ARCH_MODEL_REGISTRY\nassert 'stratified_routing' in CRITERION_REGISTRY"
    )
    assert changed_by(program + known) == "['Trainer', 'saving', 'hook']"
