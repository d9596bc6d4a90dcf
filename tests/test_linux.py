"""No process outlives its purpose."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from functools import partial

import pytest

from launcher.linux import EndsMarked, end_with_parent
from tests.processes import ROOT, clean_environment

OWNER = """
import os, signal, subprocess, sys
from launcher.linux import end_session_with_this

print(os.getpid(), flush=True)
helper = subprocess.Popen(["sh", "-c", "sleep 30 & echo $!; echo $$; wait"], start_new_session=True)
end_session_with_this(helper.pid, sys.argv[1], patience=0.2)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("name", "all_gone"), [("s", True), ("another", False)])
def test_a_helper_and_its_own_helper_end_with_the_process_that_they_work_for(name: str, all_gone: bool) -> None:
    """None of them but those of the name that was said."""
    command = [sys.executable, "-c", OWNER, name]
    owner = subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin
    assert owner.stdout
    own, below, helper = (int(owner.stdout.readline()) for _ in range(3))
    assert own == owner.pid
    ends = [os.pidfd_open(pid) for pid in (below, helper)]
    try:
        assert not select.select(ends, [], [], 0.5)[0], "they end with it and not before"
        owner.stdin.close()
        owner.wait(timeout=10)
        for end in ends:
            assert bool(select.select([end], [], [], 3.0 if all_gone else 0.7)[0]) == all_gone
    finally:
        if not all_gone:
            os.killpg(helper, 9)
        for end in ends:
            os.close(end)
        owner.stdout.close()


def test_marked_processes_end_and_others_do_not() -> None:
    """Whoever their parents are: these are in sessions of their own."""
    ends = EndsMarked("MARK_OF_A_LAUNCH=4711", 0.1)
    command = ["sleep", "60"]
    marked = subprocess.Popen(command, env={**os.environ, "MARK_OF_A_LAUNCH": "4711"}, start_new_session=True)
    with subprocess.Popen(command, env={**os.environ, "MARK_OF_A_LAUNCH": "4712"}) as other:
        ends.now()
        assert marked.wait(timeout=20) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize(("stranger", "code"), [(0, 0), (1, -signal.SIGKILL)])
def test_a_process_whose_parent_is_gone_already_ends(stranger: int, code: int) -> None:
    parent = os.getpid() + stranger
    begins = partial(end_with_parent, parent=parent)
    assert subprocess.run(["true"], preexec_fn=begins, check=False).returncode == code
