"""A recipe as text again."""

from __future__ import annotations

from typing import Any

import yaml

from launcher.recipe.schema import Recipe
from launcher.recipe.strict_yaml import has_hidden_characters, resolve_scalars


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or a recipe would read as something else, such as `yes` and `1e-4`."""


resolve_scalars(_Dumper)


def recipe_to_yaml(recipe: Recipe) -> str:
    """A resolved recipe as a file that loads to the same recipe, from anywhere: its paths are absolute."""
    data = recipe.model_dump(by_alias=True, mode="json")
    lean = {key: value for key, value in data.items() if value is not None}
    text = _dumped(lean, readable=True)
    return _dumped(lean, readable=False) if has_hidden_characters(text) else text


def _dumped(data: dict[str, Any], readable: bool) -> str:
    """Readable, or with escapes for all that is not ASCII."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=readable, default_flow_style=None)
