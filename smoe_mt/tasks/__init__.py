"""What a model is trained on: the data folder, the sampling of directions, and the fairseq task around them."""

from smoe_mt.tasks.data_folder import DataFolder
from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationTask

__all__ = ["DataFolder", "ManyToManyTranslationTask"]
