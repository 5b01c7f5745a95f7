"""What a study consists of: a file of configs/study, read and checked.

like         another plan, which gives all that is not said here; its systems come first (optional)
config       a Hydra config, which all trainings share
corpus       the text, by its name in corpora.yaml beside the plan
seeds        of every system
overrides    of the config, for all systems; a system's own come after them (optional)
measure      what systems are compared by: "scores" (default), translations of the test text; "loss", the validation loss
             at the last update, for which nothing is translated (optional)
systems      name -> overrides of the config; or the name of a plan whose runs are used; or what is made of the runs of another
             system: {from: SYSTEM, edit: [VERB, OPTIONS ...], evaluate: [OPTIONS ...]}, `edit` by smoe-mt checkpoint VERB (none:
             the checkpoint as it is), `evaluate` for smoe-mt evaluate
costs        whether the results say what each system costs (optional)
classes      name -> languages; a direction that has one of them belongs to the class
comparisons  [system, baseline, what it asks]
gap          [system, baseline, class, other class, what it asks]: is the gain larger in the one class? (optional)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from smoe_mt.errors import UserError
from smoe_mt.json_forms import Named, fits
from smoe_mt.paths import configs

CORPORA = "corpora"
FORM = {
    "config": str,
    "corpus": str,
    "overrides?": [str],
    "measure?": str,
    "costs?": bool,
    "seeds": [int],
    "systems": Named(([str], str, {"from": str, "edit?": [str], "evaluate?": [str]})),
    "classes": Named([str]),
    "comparisons": [[str]],
    "gap?": [str],
}
SCORES, LOSS = "scores", "loss"  # what systems may be compared by
NAME = re.compile(r"[\w.-]+")  # becomes part of a path


@dataclass(frozen=True)
class Made:
    """How a run is made of that of another system: `edit`, a verb of smoe-mt checkpoint and its options, empty for none;
    `evaluate`, options of smoe-mt evaluate.
    """

    source: str
    edit: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()


def run_name(system: str, seed: int) -> str:
    """Of a run within its study."""
    return f"{system}/seed{seed}"


@dataclass(frozen=True)
class Item:
    """One run: a system with a seed. `overrides` are all that differ from the config; `made`: it is no training."""

    study: str
    system: str
    seed: int
    overrides: tuple[str, ...]
    made: Made | None = None

    @property
    def name(self) -> str:
        """As people read it, and the folder below that of the study."""
        return run_name(self.system, self.seed)

    def folder(self, runs: Path) -> Path:
        """Where it is trained."""
        return runs / self.study / self.name


@dataclass(frozen=True)
class Comparison:
    """Whether `system` is better than `baseline`."""

    system: str
    baseline: str
    question: str


@dataclass(frozen=True)
class Gap:
    """Whether `system` gains more over `baseline` in the class `first` than in `second`."""

    system: str
    baseline: str
    first: str
    second: str
    question: str


@dataclass(frozen=True)
class Plan:
    """A study; `prepare`: arguments of ``smoe-mt prepare`` for its text; `measure`: SCORES or LOSS."""

    name: str
    config: str
    measure: str
    corpus: str
    prepare: tuple[str, ...]
    seeds: tuple[int, ...]
    systems: Mapping[str, tuple[Item, ...]]
    classes: Mapping[str, tuple[str, ...]]
    comparisons: tuple[Comparison, ...]
    gap: Gap | None
    costs: bool = False

    @property
    def items(self) -> tuple[Item, ...]:
        """All trainings, one seed of all systems after the other: what is done early can be compared."""
        return tuple(items[place] for place in range(len(self.seeds)) for items in self.systems.values())

    @property
    def questions(self) -> set[str]:
        """What its comparisons answer, such as "H1"."""
        return {one.question for one in self.comparisons} | ({self.gap.question} if self.gap else set())

    @property
    def tests(self) -> int:
        """Number of its tests."""
        return len(self.comparisons) + (self.gap is not None)

    def source_of(self, item: Item) -> Item:
        """Whose run an item that is made is made of; of one that is trained, itself."""
        if item.made is None:
            return item
        return next(one for one in self.systems[item.made.source] if one.seed == item.seed)

    def checkpoint_of(self, item: Item) -> Item:
        """Whose checkpoint is evaluated for an item: its own, or that of the run that it is used otherwise."""
        return item if item.made is None or item.made.edit else self.source_of(item)

    def of_systems(self, names: Collection[str]) -> Plan:
        """The plan with those of its systems alone, and with what can be compared between them."""
        systems = {name: items for name, items in self.systems.items() if name in names}
        comparisons = tuple(one for one in self.comparisons if {one.system, one.baseline} <= {*systems})
        gap = self.gap if self.gap and {self.gap.system, self.gap.baseline} <= {*systems} else None
        return replace(self, systems=systems, comparisons=comparisons, gap=gap)

    def directions_of(self, name: str, directions: Sequence[str]) -> list[str]:
        """Those of a class."""
        return [one for one in directions if set(one.split("-")) & set(self.classes[name])]


def known_plans() -> list[str]:
    """Names of the plans that come with the package."""
    return sorted(path.stem for path in (configs() / "study").glob("*.yaml") if path.stem != CORPORA)


def read_plan(name: str) -> Plan:
    """A plan by its name in configs/study, or by the path of a file. UserError for one that cannot be carried out."""
    path = Path(name) if name.endswith(".yaml") else configs() / "study" / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no study {name!r}: there are {', '.join(known_plans())}; or give a file NAME.yaml")
    content = _whole(path)
    _check_form(path, content)
    corpora = _corpora(path)
    if content["corpus"] not in corpora:
        raise UserError(f"{path}: no corpus {content['corpus']!r} in corpora.yaml: there are {', '.join(corpora)}")
    seeds = tuple(content["seeds"])
    common = content.get("overrides", [])
    systems = {system: _items(path, system, given, common, seeds) for system, given in content["systems"].items()}
    plan = Plan(
        name=path.stem,
        config=content["config"],
        measure=content.get("measure", SCORES),
        corpus=content["corpus"],
        prepare=tuple(corpora[content["corpus"]]),
        seeds=seeds,
        systems=systems,
        classes={name: tuple(languages) for name, languages in content["classes"].items()},
        comparisons=tuple(Comparison(*_of_length(path, "comparisons", one, 3)) for one in content["comparisons"]),
        gap=Gap(*_of_length(path, "gap", content["gap"], 5)) if "gap" in content else None,
        costs=content.get("costs", False),
    )
    _check_names(path, plan)
    return plan


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings by name")
    return content


def _whole(path: Path) -> dict[str, Any]:
    """A plan with what it takes from the one that it is like."""
    content = dict(_read(path))
    like = content.pop("like", None)
    if like is None:
        return content
    other = path.with_name(f"{like}.yaml")
    if not isinstance(like, str) or not other.is_file() or other == path:
        raise UserError(f"{path}: like: there is no other plan {like!r} beside it")
    base = dict(_read(other))
    if "like" in base:
        raise UserError(f"{path}: like: {like} is itself like {base['like']}: name that one")
    systems = {**_mapping(base.get("systems")), **_mapping(content.get("systems"))}
    return {**base, **content, "systems": systems}


def _check_form(path: Path, content: Mapping[str, Any]) -> None:
    shown = "configs/study/claim.yaml and the head of smoe_mt/study/plan.py show its form"
    known = {name.removesuffix("?"): form for name, form in FORM.items()}
    for name in content:
        if name not in known:
            raise UserError(f"{path}: {str(name)[:40]!r} is no part of a plan: there are like, {', '.join(known)}")
    for name in FORM:
        if name not in content and not name.endswith("?"):
            raise UserError(f"{path}: {name} is missing; {shown}")
    for name, value in content.items():
        if not fits(value, known[name]):
            raise UserError(f"{path}: {name} is of another form than it must be; {shown}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _corpora(plan: Path) -> dict[str, list[str]]:
    """Beside the plan, else those of the package."""
    beside = plan.with_name(f"{CORPORA}.yaml")
    path = beside if beside.is_file() else configs() / "study" / f"{CORPORA}.yaml"
    content = _read(path)
    if not fits(content, Named([str])):
        raise UserError(f"{path}: must have a list of arguments for each corpus")
    return dict(content)


def _items(path: Path, system: str, given: Any, common: Sequence[str], seeds: Sequence[int]) -> tuple[Item, ...]:
    if not NAME.fullmatch(system):
        raise UserError(f"{path}: system {system!r}: a name has letters, digits, _, - and . only")
    if isinstance(given, str):
        other = _whole(path.with_name(f"{given}.yaml"))
        overrides = other.get("systems", {}).get(system)
        common = other.get("overrides", [])
        if not isinstance(overrides, list):
            raise UserError(f"{path}: system {system!r} is to be {given}'s, which has no system of that name")
        missing = sorted(set(seeds) - set(other.get("seeds", ())))
        if missing:
            raise UserError(f"{path}: system {system!r} is to be {given}'s, which has no seed {missing[0]}")
        return tuple(Item(given, system, seed, (*common, *overrides)) for seed in seeds)
    if isinstance(given, Mapping):
        made = Made(given["from"], tuple(given.get("edit", ())), tuple(given.get("evaluate", ())))
        return tuple(Item(path.stem, system, seed, (), made) for seed in seeds)
    return tuple(Item(path.stem, system, seed, (*common, *given)) for seed in seeds)


def _of_length(path: Path, what: str, values: Sequence[str], length: int) -> Sequence[str]:
    if len(values) != length:
        raise UserError(f"{path}: {what}: {list(values)} has {len(values)} entries where {length} are needed")
    return values


def _check_names(path: Path, plan: Plan) -> None:
    pairs = [(one.system, one.baseline) for one in plan.comparisons]
    pairs += [(plan.gap.system, plan.gap.baseline)] if plan.gap else []
    for name in (name for pair in pairs for name in pair):
        if name not in plan.systems:
            raise UserError(f"{path}: {name!r} is compared and is no system of it: there are {', '.join(plan.systems)}")
    for name, items in plan.systems.items():
        source = items[0].made.source if items and items[0].made else None
        if source is not None and (source not in plan.systems or plan.systems[source][0].made):
            raise UserError(f"{path}: {name!r} is to be made from {source!r}, which is no system of it that is trained")
    for name in (plan.gap.first, plan.gap.second) if plan.gap else ():
        if name not in plan.classes:
            raise UserError(f"{path}: gap: no class {name!r}: there are {', '.join(plan.classes)}")
    if plan.measure not in (SCORES, LOSS):
        raise UserError(f"{path}: measure must be {SCORES} or {LOSS}, not {plan.measure!r}")
    if not plan.seeds or len(set(plan.seeds)) < len(plan.seeds):
        raise UserError(f"{path}: seeds must be one number or several different ones, not {list(plan.seeds)}")
