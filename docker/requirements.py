"""Prints what the launcher needs besides torch, one requirement a line: what the layers of the image are cached by.

Arguments: the path of pyproject.toml, and extras of it, with commas between them.
"""

import sys
from pathlib import Path

import tomllib

path, extras = sys.argv[1:]
project = tomllib.loads(Path(path).read_text(encoding="utf-8"))["project"]
wanted = list(project["dependencies"])
for extra in filter(None, extras.split(",")):
    wanted += project["optional-dependencies"][extra.strip()]
print("\n".join(line for line in wanted if not line.startswith("torch>")))
