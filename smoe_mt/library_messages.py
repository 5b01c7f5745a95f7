"""Messages of other libraries on which a decision depends, since their errors have no types of their own.

A test looks each of them up in the library's source.
"""

import re

#: fairseq.trainer.Trainer.load_checkpoint, of weights that do not fit the model.
WEIGHTS_DO_NOT_FIT = "Cannot load model parameters from checkpoint"

#: fairseq_cli.train, after the last update.
TRAINING_DONE = "done training in"

#: In torch's errors of collectives, where another rank has gone.
COLLECTIVE_BROKEN = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")

#: hydra.errors, before its list of the folders that it has searched.
SEARCH_PATH = "Config search path:"

#: hydra.errors, of a key that no config has.
NOT_THERE = re.compile(r"Could not override '([^']+)'")
