"""The model card: what an exported model is, what it was trained on, how well it does, and under which licences."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smoe_mt import scores_file
from smoe_mt.checkpoints.locate import results_folder
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import LoadedModel
from smoe_mt.json_forms import as_number
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.registry import DENSE, VARIABLE
from smoe_mt.moe.system import NUM_EXPERTS
from smoe_mt.text_table import markdown_table


def read_scores(loaded: LoadedModel) -> dict[str, dict[str, Any]]:
    """split -> content of scores.json, of the evaluations of this checkpoint that are stored next to it.

    Those that cannot be read, or are of another number of updates, are left out with a warning.
    """
    found = {}
    for path in sorted(results_folder(loaded.checkpoint, "evaluation").glob("*/scores.json")):
        try:
            scores = scores_file.read_scores(path)
        except UserError:
            warnings.warn(f"{path}: no scores to read, left out of the model card; evaluate again", stacklevel=2)
            continue
        updates = scores.get("updates")
        if updates != loaded.updates:
            warnings.warn(
                f"{path}: of {updates} updates, and the model has {loaded.updates}; left out of the model card",
                stacklevel=2,
            )
        elif scores["directions"]:
            split = scores.get("split")
            name = split if isinstance(split, str) else path.parent.name
            part, routing = scores_file.partial(scores), scores_file.unusual(scores, scores_file.ROUTING)
            marked = ", ".join(filter(None, (name, routing, f"partial: {part}")))
            found[marked if part else path.parent.name] = scores
    return found


def model_card(
    config: Mapping[str, Any], corpus: Mapping[str, Any], scores: Mapping[str, Any], licence: str | None, use: str
) -> str:
    """The card as Markdown with a YAML head. `config`: the record in config.json; `corpus`: of corpus.json; `scores`: by split;
    `use`: how to translate with it, as Markdown."""
    parts = [
        _head(config, corpus, scores, licence),
        f"# {config['name']}",
        _summary(config),
        "## Use",
        use,
        "## Data",
        _data(corpus),
        "## Scores",
        "\n\n".join(_scores(split, one) for split, one in scores.items())
        or "There were none next to the checkpoint when it was exported.",
        "## Model",
        markdown_table(("setting", "value"), _settings(config)),
        "## Licence",
        _licence(corpus, licence),
    ]
    return "\n\n".join(parts) + "\n"


def languages_of(config: Mapping[str, Any]) -> list[str]:
    """Sorted codes of the languages of the directions."""
    return sorted({language for direction in config["directions"] for language in direction.split("-")})


def _head(config: Mapping[str, Any], corpus: Mapping[str, Any], scores: Mapping[str, Any], licence: str | None) -> str:
    rows = ["---", "language:", *(f"- {json.dumps(language)}" for language in languages_of(config))]
    rows += [f"license: {json.dumps(licence.lower() if licence else 'other')}", "pipeline_tag: translation"]
    rows += ["library_name: smoe_mt", "tags:", "- translation", "- mixture-of-experts"]
    if results := [one for split, found in scores.items() for one in _results(corpus, split, found)]:
        rows.append("model-index: " + json.dumps([{"name": config["name"], "results": results}]))
    return "\n".join([*rows, "---"])


def _results(corpus: Mapping[str, Any], split: str, scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The scores in the form that a model hub reads, direction by direction."""
    name = str(corpus.get("corpus") or "corpus")
    for direction, one in scores["directions"].items():
        metrics = [{"type": metric, "value": as_number(one[metric])} for metric in _metrics(one)]
        data = {"name": name, "type": name, "config": direction, "split": split}
        yield {"task": {"type": "translation", "name": f"Translation {direction}"}, "dataset": data, "metrics": metrics}


def _metrics(scores: Mapping[str, Any]) -> list[str]:
    return [name for name, value in scores.items() if as_number(value) is not None and name != "sentences"]


def _summary(config: Mapping[str, Any]) -> str:
    model = config["config"]["model"]
    kind = "dense transformer" if model["moe"] == DENSE else SYSTEMS[model["moe"]].title
    return (
        f"Translates in {len(config['directions'])} directions: {', '.join(config['directions'])}. A {kind} with "
        f"{config['parameters']:,} parameters, {config['updates']:,} updates of training, stored as {config['dtype']} "
        f"({next(iter(config['files'].values()))['bytes'] / 1e6:,.1f} MB)."
    )


def external_system(config: Mapping[str, Any]) -> str:
    """A paragraph on what has to be named before a model of a system from elsewhere is loaded; empty for all others."""
    moe = config["config"]["model"]["moe"]
    if moe == DENSE or SYSTEMS.is_of_the_package(moe):
        return ""
    return f"`{moe}` is no system of smoe_mt: name the file that registers it in `{VARIABLE}` first.\n\n"


def _data(corpus: Mapping[str, Any]) -> str:
    splits = list(corpus.get("splits", {}))
    counts = [
        (pair, *(f"{corpus['splits'][split].get(pair, 0):,}" for split in splits)) for pair in corpus.get("pairs", [])
    ]
    parts = [
        "Sentence pairs; each pair of languages serves both of its directions.",
        markdown_table(("pair", *splits), counts),
    ]
    sources = [
        (
            str(source.get("name", "?")),
            str(source.get("version") or ""),
            str(source.get("licence") or "not stated"),
            ", ".join(f"{pair} {count:,}" for pair, count in (source.get("pairs") or {}).items()),
        )
        for source in corpus.get("sources", [])
    ]
    if sources:
        parts += ["Sources:", markdown_table(("source", "version", "licence", "pairs read"), sources)]
    else:
        parts.append("corpus.json names no sources.")
    return "\n\n".join(parts)


def _scores(split: str, scores: Mapping[str, Any]) -> str:
    directions: Mapping[str, Mapping[str, Any]] = scores["directions"]
    first = next(iter(directions.values()))
    metrics = _metrics(first)
    rows = [
        (direction, str(one.get("sentences", "")), *(_number(one.get(metric)) for metric in metrics))
        for direction, one in directions.items()
    ]
    if isinstance(scores.get("mean"), dict):
        rows.append(("mean", "", *(_number(scores["mean"].get(metric)) for metric in metrics)))
    meanings, signatures = (_mapping(one) for one in (scores.get("metrics"), first.get("signatures")))
    notes = [f"- {metric}: {meanings[metric]}" for metric in metrics if metric in meanings]
    notes += [f"- {metric} signature: `{signature}`" for metric, signature in signatures.items()]
    title = f"Split {split}, beam {scores.get('beam', '?')}, length penalty {scores.get('lenpen', '?')}:"
    return "\n\n".join(
        part for part in (title, markdown_table(("direction", "sentences", *metrics), rows), "\n".join(notes)) if part
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> str:
    found = as_number(value)
    return "" if found is None else f"{found:.2f}"


def _settings(config: Mapping[str, Any]) -> list[Sequence[str]]:
    model = config["config"]["model"]
    rows = [
        ("layers", f"{model['encoder_layers']} + {model['decoder_layers']}"),
        ("dimension", str(model["encoder_embed_dim"])),
        ("FFN dimension", str(model["encoder_ffn_embed_dim"])),
        ("attention heads", str(model["encoder_attention_heads"])),
        ("longest source and target, in pieces", f"{model['max_source_positions']}, {model['max_target_positions']}"),
        ("moe", model["moe"]),
    ]
    if model["moe"] != DENSE:
        setting = SYSTEMS[model["moe"]].experts_setting
        name = "experts per block" if setting == NUM_EXPERTS else setting
        rows += [
            (name, _joined(model[setting])),
            ("a block in every n-th layer, n", str(model["moe_freq"])),
            ("variant", model["variant"]),
        ]
    vocabulary = config["task_state"].get("vocabulary", {})
    return [*rows, ("vocabulary", f"{vocabulary['size']:,} entries" if "size" in vocabulary else "")]


def _joined(strata: Any) -> str:
    return ", ".join(map(str, strata)) if isinstance(strata, (list, tuple)) else str(strata)


def _licence(corpus: Mapping[str, Any], licence: str | None) -> str:
    weights = f"The weights: {licence}." if licence else "Whoever exported the weights stated no licence for them."
    of_text = sorted({str(source["licence"]) for source in corpus.get("sources", []) if source.get("licence")})
    text = f" The text that they were trained and tested on: {', '.join(of_text)}." if of_text else ""
    return weights + text
