"""Preemption: after SIGTERM or SIGUSR1 the trainer finishes its update, saves and exits."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_PREEMPTED = os.EX_TEMPFAIL  # 75: not a failure; the same command continues where this one stopped

_noted: list[signal.Signals] = []


def listen() -> None:
    """Note the signals from now on. Doing it again changes nothing; in another thread than the main one nothing at all."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _note)


def asked_to_leave() -> signal.Signals | None:
    """The first of the signals that came; None where none did."""
    return _noted[0] if _noted else None


def leave_it_to_the_trainer(_worker: int) -> None:
    """For a loader's workers: schedulers signal all processes of a job, and the last update still needs its batch."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_heed_the_parent_alone, daemon=True).start()


def _heed_the_parent_alone() -> None:
    """The trainer ends its workers by SIGTERM too, and waits for them."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _note(number: int, _frame: FrameType | None) -> None:
    _noted.append(signal.Signals(number))
