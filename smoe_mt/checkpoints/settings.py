"""The only door for settings in files: every reader of a checkpoint or an exported folder gets its settings from here.

fairseq builds whatever model, task or criterion a checkpoint names, evaluates strings among their settings, resolves
interpolations such as ``${oc.env:HOME}``, and prefers an old ``args`` to ``cfg``. So no settings reach it but these:

- model and task are smoe_mt's own. Each of their settings is known, of its type and in its range; an unknown one is refused,
  as it may change what is computed.
- the criterion is one of three that are known to be harmless, and is held to the same; another is left out (translation
  needs none).
- the other sections only tell how a training went. They keep what fairseq's dataclasses have, as plain values; what is
  unknown there is left out, as nothing reads it.
- no interpolation is resolved: text with ``${`` in it is refused. ``args`` is ignored.
"""

from __future__ import annotations

import dataclasses
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from smoe_mt.allowed.kinds import Experts, refusal
from smoe_mt.checkpoints.schema import TASK
from smoe_mt.checkpoints.sizes import check_sizes
from smoe_mt.errors import UserError
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.registry import DENSE, VARIABLE
from smoe_mt.ranges import CRITERION, MODEL, Range, kinds_of, problem, ranges_of, shown
from smoe_mt.ranges import TASK as TASK_RANGES

Settings = dict[str, Any]

#: What a section may hold in all, and how deep; a hostile one that refers to itself is endless.
MOST_VALUES, DEEPEST = 10_000, 8
NAME = re.compile(r"[A-Za-z_]\w{0,99}")
SUBSET = re.compile(r"[A-Za-z0-9][\w.,-]{0,199}")
#: fairseq's sections of settings for things that are built while training or by their own commands: never from a file.
NEVER_TAKEN = ("scoring", "bpe", "tokenizer")
HARMLESS_CRITERIONS = ("stratified_routing", "label_smoothed_cross_entropy", "cross_entropy")
REMEDY = "take another checkpoint, or one that this version of smoe_mt wrote"


def own_settings(settings: Any, weights: Mapping[str, Tensor], path: Path) -> Settings:
    """``cfg`` of a checkpoint of smoe_mt, checked, in plain values. `weights`: of the checkpoint, for the sizes.

    Raises UserError, naming file and setting, for another model or task and for settings that are unknown or out of range.
    """
    if not isinstance(settings, dict):
        raise UserError(f"{path}: it has no settings (cfg); {REMEDY}")
    task, model = (_section(settings, name, path) for name in ("task", "model"))
    if task.get("_name") != TASK:
        raise UserError(f"{path}: a model of the task {_named(task)}, and smoe_mt reads those of {TASK}")
    own = _own_model(model, path)
    check_sizes(own, weights, path)
    checked = {**_other_sections(settings, path), "model": own, "task": _own_task(task, path)}
    return {name: checked[name] for name in settings if name in checked}


def model_and_criterion(settings: Any, path: Path) -> Settings:
    """These two sections, checked as by `own_settings`, but for the sizes; the criterion is None where it is none of ours."""
    if not isinstance(settings, dict):
        raise UserError(f"{path}: it has no settings (cfg); {REMEDY}")
    criterion = settings.get("criterion")
    return {
        "model": _own_model(_section(settings, "model", path), path),
        "criterion": _criterion(criterion, path) if isinstance(criterion, dict) else None,
    }


def own_architectures() -> set[str]:
    """Names under which the model of smoe_mt is registered."""
    from fairseq.models import ARCH_MODEL_REGISTRY

    from smoe_mt.models.smoe_transformer import SMoETransformerModel

    return {name for name, model in ARCH_MODEL_REGISTRY.items() if model is SMoETransformerModel}


def is_own(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint says that it is of smoe_mt's model."""
    settings = state.get("cfg")
    model = settings.get("model") if isinstance(settings, Mapping) else None
    name = model.get("_name") if isinstance(model, Mapping) else None
    return isinstance(name, str) and name in own_architectures()


def _section(settings: Settings, name: str, path: Path) -> Settings:
    section = as_dict(settings.get(name))
    if not section:
        raise UserError(f"{path}: it has no settings of its {name}; {REMEDY}")
    return section


def _named(section: Settings) -> str:
    name = section.get("_name")
    return name if isinstance(name, str) and NAME.fullmatch(name) else "unknown"


# --- model, task, criterion: every setting is known ---


def _own_model(section: Settings, path: Path) -> Settings:
    from smoe_mt.models.config import SMoETransformerConfig

    if not is_own({"cfg": {"model": section}}):
        raise UserError(
            f"{path}: model._name is {_named(section)}, and smoe_mt builds {', '.join(sorted(own_architectures()))} alone; "
            "give a checkpoint of smoe_mt (`smoe-mt checkpoint convert` reads fairseq's transformer)"
        )
    name = section.get("moe")
    if isinstance(name, str) and NAME.fullmatch(name) and name != DENSE and name not in SYSTEMS:
        raise UserError(f"{path}: {SYSTEMS.unknown(name)}")
    checked = _typed(section, "model", SMoETransformerConfig, MODEL, path)
    for name in ("strata", "num_experts"):
        wrong = refusal(Experts(), checked[name]) if name in checked else None
        if wrong:
            raise UserError(f"{path}: model.{name} {wrong}, not {shown(checked[name])}; {REMEDY}")
    return checked


def _own_task(section: Settings, path: Path) -> Settings:
    from smoe_mt.tasks.config import ManyToManyTranslationConfig

    checked = _typed(section, "task", ManyToManyTranslationConfig, TASK_RANGES, path)
    subset = checked.get("train_subset", "train")
    if not SUBSET.fullmatch(subset) or ".." in subset:
        raise UserError(f"{path}: task.train_subset must be the name of a split, not {shown(subset)}; {REMEDY}")
    return checked


def _typed(section: Settings, name: str, dataclass: type, ranges: Mapping[str, Range], path: Path) -> Settings:
    """The section, all of whose settings are of this dataclass. UserError for one that is not, or is out of range."""
    kinds, spans = kinds_of(dataclass), ranges_of(dataclass, ranges)
    for key, value in section.items():
        if key == "_name":
            continue
        if key not in kinds:
            raise UserError(
                f"{path}: {name}.{shown(key)[1:-1]} is no setting of this version of smoe_mt; install the version that wrote "
                f"it, name the file of its system in {VARIABLE}, or take another checkpoint"
            )
        wrong = problem(kinds[key], value, spans.get(key)) or _problem_of_interpolation(value)
        if wrong:
            raise UserError(f"{path}: {name}.{key} {wrong}; {REMEDY}")
    return {key: list(value) if isinstance(value, list) else value for key, value in section.items()}


def _problem_of_interpolation(value: Any) -> str | None:
    if isinstance(value, str) and ("${" in value or value == "???"):
        return f"is to be filled in from elsewhere ({shown(value)}), which is not done for a file"
    return None


# --- the other sections: plain values ---


def _other_sections(settings: Settings, path: Path) -> dict[str, Settings | None]:
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY
    from fairseq.optim.lr_scheduler import LR_SCHEDULER_DATACLASS_REGISTRY

    dataclasses_: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(FairseqConfig)}
    registries = {"optimizer": OPTIMIZER_DATACLASS_REGISTRY, "lr_scheduler": LR_SCHEDULER_DATACLASS_REGISTRY}
    found: dict[str, Settings | None] = {}
    for name, section in settings.items():
        if name in registries and isinstance(section, dict):
            found[name] = _of_registry(section, name, registries[name], path)
        elif name == "criterion" and isinstance(section, dict):
            found[name] = _criterion(section, path)
        elif name in NEVER_TAKEN or name in ("criterion", *registries):
            found[name] = None
        elif dataclasses.is_dataclass(dataclasses_.get(name)) and isinstance(section, dict):
            found[name] = _known(section, name, dataclasses_[name], path)
    return found


def _criterion(section: Settings, path: Path) -> Settings | None:
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY

    import smoe_mt.criterions  # noqa: F401  # registers its own

    if section.get("_name") not in HARMLESS_CRITERIONS:
        return None
    return _typed(section, "criterion", CRITERION_DATACLASS_REGISTRY[section["_name"]], CRITERION, path)


def _of_registry(section: Settings, name: str, registry: Mapping[str, type], path: Path) -> Settings | None:
    chosen = section.get("_name")
    if not isinstance(chosen, str) or chosen not in registry:
        return None
    return _known(section, name, registry[chosen], path)


def _known(section: Settings, name: str, dataclass: type, path: Path) -> Settings:
    """What the dataclass has of it, in plain values."""
    keys = {"_name", *kinds_of(dataclass)}
    budget = Budget(path)
    return {key: budget.plain(value, f"{name}.{key}") for key, value in section.items() if key in keys}


class Budget:
    """Copies plain values, up to a number of values and a depth. UserError for others, which name the file `path`."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, MOST_VALUES

    def plain(self, value: Any, where: str, depth: int = 0) -> Any:
        """A copy of a value: None, a number, text, or a list or dictionary of those. `where`: its place, for the error."""
        self._left -= 1
        if self._left < 0 or depth > DEEPEST:
            raise UserError(f"{self._path}: {where} holds too many values, or too deep ones; {REMEDY}")
        if isinstance(value, dict):
            for key in value:
                if not (isinstance(key, str) and len(key) <= 200 and key.isprintable()):
                    raise UserError(f"{self._path}: {where} has the key {shown(key)}, which is no name; {REMEDY}")
            return {key: self.plain(one, where, depth + 1) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(one, where, depth + 1) for one in value]
        kind = type(value)
        wrong: str | None = f"must be a plain value, not {shown(value)}"
        if value is None or kind is bool:
            wrong = None
        elif kind in (int, float, str):
            wrong = problem(kind, value) or _problem_of_interpolation(value)
            wrong = None if value == "???" else wrong
        if wrong:
            raise UserError(f"{self._path}: {where} {wrong}; {REMEDY}")
        return value


def as_dict(section: Any) -> Settings:
    """A section as a dictionary, of older checkpoints made from a Namespace; empty for anything else."""
    found = vars(section) if isinstance(section, Namespace) else section
    return dict(found) if isinstance(found, Mapping) else {}
