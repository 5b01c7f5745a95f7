"""Settings of the criterion ``stratified_routing``."""

from dataclasses import dataclass, field

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig


# fairseq makes flags of these annotations: they must be types, so annotations stay unpostponed in this module.
@dataclass
class StratifiedRoutingConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Label smoothing as in fairseq, and the weight of the balance loss."""

    balance_weight: float = field(
        default=0.01, metadata={"help": "alpha: weight of the balance loss, per target token (paper: 0.01)"}
    )
