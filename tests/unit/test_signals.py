"""Signals end hkrunner in order, whatever it does at that moment."""

from __future__ import annotations

import signal

import pytest
from hkrunner.runner.io.signals import signals_raise, signals_wait


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_waits_until_a_process_is_started(
    number: signal.Signals, error: type[BaseException]
) -> None:
    done = []
    with pytest.raises(error), signals_raise():
        with signals_wait():
            signal.raise_signal(number)
            done.append("started")
        done.append("went on")
    assert done == ["started"]
