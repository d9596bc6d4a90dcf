"""What all tests stand on."""

from __future__ import annotations

import signal

pytest_plugins = ["tests.faults.table"]

# A test run in the background of a shell, or under nohup, ignores these, and so would all that it starts.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
