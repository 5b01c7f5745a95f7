"""What every setting may be: one table for flags and configs, read before torch, data or a model is.

`kinds` are the sorts of values, `keys` the table of config keys, `flags` what argparse needs, `overrides` and `config` the doors.
"""
