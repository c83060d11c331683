"""A command under a time limit, on systems that have no ``timeout``."""

import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT

LIMITED = [sys.executable, str(ROOT / "scripts" / "acceptance" / "limited.py")]
ENDS_WELL = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); {}; time.sleep(60)"


@pytest.mark.parametrize("status", [0, 7])
def test_exit_status_is_that_of_the_command(status: int) -> None:
    done = subprocess.run([*LIMITED, "30", sys.executable, "-c", f"print('done'); exit({status})"], capture_output=True)
    assert (done.returncode, done.stdout) == (status, b"done\n")


def test_command_that_takes_too_long_is_told_to_end() -> None:
    code = ENDS_WELL.replace("sys.exit(5)", "print('kept') or sys.exit(0)").format("print('begun')")
    began = time.monotonic()
    done = subprocess.run([*LIMITED, "2", sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 124
    assert done.stdout == "begun\nkept\n"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_told_to_end_is_passed_on(number: signal.Signals) -> None:
    command = [*LIMITED, "60", sys.executable, "-c", ENDS_WELL.format("print('begun', flush=True)")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as limited:
        assert limited.stdout
        assert limited.stdout.readline() == b"begun\n"
        limited.send_signal(number)
        assert limited.wait(timeout=30) == 5
