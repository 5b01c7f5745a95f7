"""All systems of the package: one file and one line below for each."""

from smoe_mt.moe.registry import Systems
from smoe_mt.moe.system import System
from smoe_mt.moe.systems import (
    cmr,
    dynmoe,
    eom,
    hmoe,
    mhmoe,
    moefied,
    mpoe,
    pesc,
    stacking,
    stratified,
    switch,
    vanilla,
    xmoe,
)

SYSTEMS = Systems(
    vanilla.SYSTEM,
    switch.SYSTEM,
    eom.SYSTEM,
    cmr.SYSTEM,
    stacking.SYSTEM,
    stratified.SYSTEM,
    xmoe.SYSTEM,
    mpoe.SYSTEM,
    moefied.SYSTEM,
    mhmoe.SYSTEM,
    mhmoe.STRATIFIED,
    pesc.SYSTEM,
    pesc.STRATIFIED,
    hmoe.SYSTEM,
    hmoe.STRATIFIED,
    dynmoe.SYSTEM,
    dynmoe.STRATIFIED,
)


def register_system(system: System) -> System:
    """Make a system known under its name; returns it.

    Raises:
        UserError: a name that is taken, or settings of models have been made already (``registry.py`` says how to be in time).
    """
    SYSTEMS.register(system)
    return system
