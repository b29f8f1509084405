"""A supervised command stops on request, even just after its start."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from stages.runtime.supervise import GRACE_SECONDS, run_supervised

STARTS_LATE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)
time.sleep(1.5)
sys.exit(subprocess.call([sys.executable, "-c", "import time; time.sleep(50)"]))
"""


def test_a_process_started_after_the_request_is_asked_too(tmp_path: Path) -> None:
    request = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    request.start()
    started = time.monotonic()
    outcome = run_supervised(
        [sys.executable, "-c", STARTS_LATE], dict(os.environ), tmp_path / "log", ()
    )
    assert outcome.stop_requested
    assert outcome.code != 0
    assert time.monotonic() - started < GRACE_SECONDS / 2
