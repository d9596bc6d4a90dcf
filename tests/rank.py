"""One rank of a test: python -m tests.rank MODULE FILE [MORE ...] calls the module's `main`, and ends at once.

Threads of gloo that outlive the interpreter now and then abort a process as Python takes it down (torch 2.13).
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    module, out, *more = sys.argv[1:]
    importlib.import_module(module).main(Path(out), *more)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
