"""Who may import whom, and what never reaches the command line."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.processes import ROOT, clean_environment

PACKAGE = ROOT / "launcher"
HEAVY = {"torch", "accelerate", "deepspeed", "wandb", "wandb_workspaces", "ray", "sky"}
GROUND = {"errors", "recipe", "plan", "rundir", "linux", "words"}
MAY_IMPORT = {
    "errors": set[str](),
    "linux": set[str](),
    "words": set[str](),
    "rundir": {"errors"},
    "recipe": {"errors"},
    "plan": {"errors", "recipe"},
    "dashboard": {"recipe"},
    "launch": GROUND,
    "report": GROUND,
    "runners": {*GROUND, "launch"},
    "doctor": GROUND,
    "cli": {*GROUND, "launch", "runners", "report", "dashboard", "doctor"},
    "trackers": {"errors", "recipe", "plan", "rundir", "linux", "dashboard"},
    "train": {*GROUND, "trackers"},
    "worker": {*GROUND, "trackers", "train", "dashboard"},
}
NO_HEAVY = {"errors", "linux", "words", "rundir", "recipe", "plan", "launch", "report", "runners", "cli"} | {
    "dashboard",
    "doctor",
}


def modules() -> Iterator[tuple[str, str, set[str]]]:
    """Every module: its wing, its file, the modules that it names in an import at any depth."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):
            continue
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                named.add(node.module)
                named |= {f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("launcher")}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        yield parts[0], str(path.relative_to(ROOT)), named


MODULES = list(modules())


@pytest.mark.parametrize(("wing", "file", "named"), MODULES, ids=[file for _, file, _ in MODULES])
def test_data_flows_one_way(wing: str, file: str, named: set[str]) -> None:
    wings = {name.split(".")[1] for name in named if name.startswith("launcher.")}
    assert wings - {wing} <= MAY_IMPORT[wing], file
    if wing in NO_HEAVY:
        assert not {name.partition(".")[0] for name in named} & HEAVY, file


def test_no_circles_between_modules() -> None:
    imports: dict[str, set[str]] = {}
    for _, file, named in MODULES:
        name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        imports[name] = {other for other in named if other.startswith("launcher.")} - {name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path, name])
        if name not in done:
            for other in imports.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in imports:
        visit(name, ())


def test_only_one_module_decides_environment_variables() -> None:
    """launch/environ.py computes them; nobody sets them in a running process."""
    writing = re.compile(
        r"environ\[[^]]+\] *=[^=]|environ\.(update|setdefault|pop|clear)\(|\b(un)?putenv\(|\bdel os.environ"
    )
    writers = [str(path) for path in PACKAGE.rglob("*.py") if writing.search(path.read_text())]
    assert writers == []


def test_packages_have_empty_init_files() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text().strip() == "", path


IN_CLUSTER = (
    "launch.device=cpu",
    "launch.kubernetes={image: image, runs_claim: runs, code: /code}",
)
LOADED = """
import json, sys
from launcher.cli.app import main
sys.argv = ["launcher", *sys.argv[1:]]
try:
    main()
except SystemExit as leaving:
    code = leaving.code
print("MODULES", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("plan", "recipes/digits/recipe.yaml", "--world", "1", "2", "64"),
        ("plan", "recipes/digits/recipe.yaml", "--json"),
        ("run", "recipes/digits/recipe.yaml", "launch.nproc_per_node=2", "--dry-run"),
        ("run", "recipes/digits/accelerate.yaml", "--dry-run"),
        ("submit", "recipes/digits/recipe.yaml", "launch.device=cpu", "--dry-run"),
        ("submit", "recipes/digits/recipe.yaml", "--to", "ray", "launch.device=cpu", "--dry-run"),
        ("run", "recipes/digits/recipe.yaml", "launch.device=cpu", "--in", "docker", "image", "--dry-run"),
        ("submit", "recipes/digits/recipe.yaml", *IN_CLUSTER, "--to", "kubernetes", "--dry-run"),
        ("status", "--runs", "recipes"),
        ("dashboard", "recipes/digits/recipe.yaml", "--dry-run"),
        ("sweep", "recipes/digits/recipe.yaml", "optimizer.lr=0.1,0.2", "--dry-run"),
        ("plan", "recipes/digits/recipe.yaml", "batch.micro=x"),
    ],
    ids=" ".join,
)
def test_planning_loads_no_framework(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (2 if "batch.micro=x" in arguments else 0), done.stderr
    loaded = json.loads(done.stdout.rpartition("MODULES ")[2])
    assert not HEAVY & set(loaded)


def test_every_package_of_the_house_is_in_the_rules() -> None:
    wings = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert wings - {"__init__", "__main__"} == set(MAY_IMPORT)
