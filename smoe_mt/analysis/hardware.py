"""What machines can do: figures of public data sheets, and assumptions of what part of them training gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.json_files import read_json


@dataclass(frozen=True)
class Hardware:
    """Devices in machines, as training gets to use them.

    flops_per_s           of a device, achieved in matrix products
    memory_bytes          of a device
    memory_bytes_per_s    a device to its memory
    within_bytes_per_s    a device to the others of its machine, one direction
    between_bytes_per_s   a device to other machines, one direction
    latency_s             of an exchange or of a step of a reduction, before its first byte
    devices_per_machine   devices that reach each other by the fast links
    """

    flops_per_s: float
    memory_bytes: float
    memory_bytes_per_s: float
    within_bytes_per_s: float
    between_bytes_per_s: float
    latency_s: float
    devices_per_machine: int


@dataclass(frozen=True)
class DataSheet:
    """The makers' figures of a device in its usual machine of 8: products without sparsity, links in one direction."""

    half_flops_per_s: float
    fp32_flops_per_s: float
    memory_bytes: float
    memory_bytes_per_s: float
    within_bytes_per_s: float
    between_bytes_per_s: float
    devices_per_machine: int = 8


# NVIDIA's data sheets: H100 SXM and DGX H100, H200 SXM and DGX H200 (NVLink 900 GB/s both ways; a 400 Gb/s adapter a device),
# A100 SXM 80 GB and DGX A100 (NVLink 600 GB/s both ways; a 200 Gb/s adapter a device).
DATA_SHEETS = {
    "h200": DataSheet(989e12, 67e12, 141e9, 4.8e12, 450e9, 50e9),
    "h100": DataSheet(989e12, 67e12, 80e9, 3.35e12, 450e9, 50e9),
    "a100": DataSheet(312e12, 19.5e12, 80e9, 2.039e12, 300e9, 25e9),
}
# Assumptions, measured nowhere here: what training gets of the figures above, and how long a message takes to start.
SHARE_OF_FLOPS, SHARE_OF_LINKS, LATENCY_S = 0.4, 0.7, 10e-6


def preset(name: str, half: bool) -> Hardware:
    """A device by its name, computing in half precision or in float32, under the assumed shares."""
    sheet = DATA_SHEETS[name]
    return Hardware(
        flops_per_s=SHARE_OF_FLOPS * (sheet.half_flops_per_s if half else sheet.fp32_flops_per_s),
        memory_bytes=sheet.memory_bytes,
        memory_bytes_per_s=SHARE_OF_LINKS * sheet.memory_bytes_per_s,
        within_bytes_per_s=SHARE_OF_LINKS * sheet.within_bytes_per_s,
        between_bytes_per_s=SHARE_OF_LINKS * sheet.between_bytes_per_s,
        latency_s=LATENCY_S,
        devices_per_machine=sheet.devices_per_machine,
    )


def hardware(name_or_file: str, half: bool, own: Mapping[str, float]) -> Hardware:
    """A preset, or a JSON file of ``Hardware``'s fields; `own` numbers take the place of the ones there.

    Raises:
        UserError: neither a preset nor a readable file, fields that are missing or unknown, numbers that are not positive.
    """
    found = preset(name_or_file, half) if name_or_file in DATA_SHEETS else _read(Path(name_or_file))
    found = replace(found, **own)  # type: ignore[arg-type]
    for field in fields(Hardware):
        value = getattr(found, field.name)
        if not value > 0:
            raise UserError(f"hardware: {field.name} must be above 0, not {value}")
    return found


def _read(path: Path) -> Hardware:
    names = {field.name for field in fields(Hardware)}
    wanted = f"one of {', '.join(DATA_SHEETS)}, or a JSON file with {', '.join(sorted(names))}"
    try:
        given: Any = read_json(path, f"give {wanted}")
    except UserError as error:
        raise UserError(f"--hardware {error}") from error
    if not isinstance(given, dict) or set(given) != names:
        raise UserError(
            f"--hardware {path}: these fields are missing or unknown: {_difference(given, names)}; {wanted}"
        )
    if not all(isinstance(value, int | float) for value in given.values()):
        raise UserError(f"--hardware {path}: every field is a number")
    return Hardware(**given)


def _difference(given: Any, names: set[str]) -> str:
    return ", ".join(sorted(set(given) ^ names)) if isinstance(given, dict) else "all (it is no object)"
