"""The allowed values of every setting: one table for flags and configs, applied before torch, data or a model is loaded.

`kinds` are the types of values, `keys` the table of config keys, `flags` the types for argparse; `overrides` checks single overrides,
`config` whole configurations.
"""
