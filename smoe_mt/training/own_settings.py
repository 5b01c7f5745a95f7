"""The dataclasses of our model, task and criterion, by the group of the configuration that they describe."""

from __future__ import annotations

from smoe_mt.criterions.config import StratifiedRoutingConfig
from smoe_mt.models import SMoETransformerConfig
from smoe_mt.tasks.config import ManyToManyTranslationConfig

OWN_SETTINGS: dict[str, type] = {
    "model": SMoETransformerConfig,
    "task": ManyToManyTranslationConfig,
    "criterion": StratifiedRoutingConfig,
}
