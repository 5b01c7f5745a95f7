"""Options that systems declare, as settings of fairseq's: flags, and keys of Hydra's configs."""

from collections.abc import Iterable
from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from smoe_mt.errors import UserError


def with_options(name: str, module: str, base: type[FairseqDataclass], options: Iterable[type]) -> Any:
    """A dataclass with the fields of ``base`` and those of the ``options``, which become types that fairseq can read.

    Raises:
        UserError: an option of a name that is taken by another one, or without a default.
    """
    found: dict[str, tuple[Any, Field[Any]]] = {}
    taken = {each.name for each in fields(base)}
    for declared in options:
        types = get_type_hints(declared)
        for one in fields(declared):
            if one.default is MISSING:
                raise UserError(f"{declared.__name__}.{one.name}: an option needs a plain default")
            same = found.get(one.name)
            if one.name in taken or (same and (same[0], same[1].default) != (_type(types[one.name]), one.default)):
                raise UserError(f"{declared.__name__}.{one.name}: there is a setting of this name already")
            found[one.name] = _type(types[one.name]), field(default=one.default, metadata=dict(one.metadata))
    merged = make_dataclass(name, [(key, kind, made) for key, (kind, made) in found.items()], bases=(base,))
    merged.__module__, merged.__doc__ = module, base.__doc__
    return merged


_CHOICES: dict[Any, Any] = {}  # an equal type for equal choices


def _type(declared: Any) -> Any:
    """``Literal`` as fairseq's ChoiceEnum, all others as they are."""
    if get_origin(declared) is not Literal:
        return declared
    return _CHOICES.setdefault(declared, ChoiceEnum(list(get_args(declared))))
