"""Training losses: translation plus balance, and what is measured on the way."""

from smoe_mt.criterions.stratified_routing import StratifiedRoutingCriterion

__all__ = ["StratifiedRoutingCriterion"]
