"""The GPUs and the links between them, as NVIDIA's own program tells."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor.finding import Finding, ok, problem, warning

_FIELDS = ("index", "name", "driver_version", "memory.total", "memory.used", "ecc.errors.uncorrected.volatile.total")
_PATIENCE = 30.0  # seconds
_BUSY = 0.1  # of the memory
_ACROSS = {"SYS": "the link between processors", "NODE": "a processor's own bus"}


def driver_gpus(root: Path = Path("/proc/driver/nvidia/gpus")) -> int:
    """How many GPUs the driver has."""
    return len(list(root.iterdir())) if root.is_dir() else 0


def examine_gpus(gpus: int) -> Iterator[Finding]:
    """The driver, the GPUs and their links; one finding on a machine without.

    Args:
        gpus: how many the driver has.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        if gpus:
            yield warning("driver", f"has {gpus} GPUs, and there is no nvidia-smi to ask", "Install NVIDIA's tools")
        else:
            yield ok("GPUs", "none: training runs on the CPU")
        return
    queried, wrong = _call(program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    if wrong:
        yield problem("driver", f"nvidia-smi fails: {wrong}", "Load or update NVIDIA's driver, or restart the machine")
        return
    yield from read_query(queried)
    links, wrong = _call(program, "topo", "-m")
    if not wrong:
        yield from read_links(links)


def read_query(text: str) -> Iterator[Finding]:
    """Findings from what nvidia-smi answers of each GPU."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    if rows:
        yield ok("driver", rows[0][2])
    for index, name, _, total, used, errors in (row for row in rows if len(row) == len(_FIELDS)):
        whole, taken = _number(total), _number(used)
        said = f"{name}, {whole / 1024:.0f} GiB"
        if _number(errors) > 0:
            yield problem(f"GPU {index}", f"{said}: {errors} memory errors", "Take it out of use, and have it replaced")
        elif whole and taken / whole > _BUSY:
            yield warning(f"GPU {index}", f"{said}, {taken / 1024:.0f} GiB of them in use",
                          "See who uses it: nvidia-smi")  # fmt: skip
        else:
            yield ok(f"GPU {index}", said)


def read_links(text: str) -> Iterator[Finding]:
    """Findings from the matrix of `nvidia-smi topo -m`: a row for each GPU, a column for each thing it may reach."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in text.splitlines()]
    heads = next((words for words in lines if words and words[0] == "GPU0"), [])
    columns = [place for place, word in enumerate(heads) if re.fullmatch(r"GPU\d+", word)]
    rows = [words for words in lines if words and re.fullmatch(r"GPU\d+", words[0]) and words is not heads]
    kinds = [words[1 + place] for words in rows for place in columns if len(words) > 1 + place]
    found = sorted({kind for kind in kinds if kind != "X"})
    if not found:
        return
    slow = [kind for kind in found if kind in _ACROSS]
    if slow and any(kind.startswith("NV") for kind in found):
        yield warning("links", f"{', '.join(found)}: some pairs of GPUs have NVLink and some have not",
                      "Choose GPUs that are linked by CUDA_VISIBLE_DEVICES")  # fmt: skip
    elif slow:
        yield warning("links", f"{', '.join(found)}: GPUs reach each other over {_ACROSS[slow[-1]]}",
                      "Accumulate more micro-steps per update, so that gradients cross it less often")  # fmt: skip
    else:
        yield ok("links", ", ".join(found))


def _call(*command: str) -> tuple[str, str]:
    """What a command prints, and what is wrong where it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True, text=True, errors="replace", check=False, timeout=_PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        return "", f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return "", f"no answer in {_PATIENCE:g} seconds"
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return done.stdout, "" if done.returncode == 0 else said[-1] if said else f"exit code {done.returncode}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # [N/A]
        return 0.0
