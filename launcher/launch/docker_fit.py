"""What a recipe must be to run in a container, beyond what it must be anyway; refused before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launcher.errors import Mistake, RequestError
from launcher.launch.elsewhere import code_folders
from launcher.recipe.schema import Recipe

# Folders that an image has of its own: with another one in its place nothing would run.
_OF_IMAGES = {
    Path(name)
    for name in (
        "/",
        "/bin",
        "/dev",
        "/etc",
        "/lib",
        "/lib64",
        "/opt",
        "/proc",
        "/run",
        "/sbin",
        "/sys",
        "/tmp",
        "/usr",
    )
}


def fit_image(recipe: Recipe, recipe_folder: Path, runs: Path, image: str | None) -> str:
    """The image for a recipe that a container on one machine can run.

    Args:
        recipe: the recipe.
        recipe_folder: where it lies, absolute.
        runs: the folder of all runs, absolute.
        image: the image, if one was named.

    Raises:
        RequestError: none can, with every reason.
    """
    mistakes = list(_hindrances(recipe, [*code_folders(recipe, recipe_folder), runs]))
    if image is None:
        mistakes.append(Mistake("launch.docker.image", "is missing", "Name an image that has the launcher"))
    elif image.startswith("-"):
        mistakes.append(Mistake("--in docker", f"{image!r} is no image", "Name an image that has the launcher"))
    if mistakes or image is None:
        raise RequestError(mistakes)
    return image


def _hindrances(recipe: Recipe, folders: list[Path]) -> Iterator[Mistake]:
    if recipe.launch.elastic or recipe.launch.machines.most > 1:
        yield Mistake(
            "launch.nodes",
            "a container runs the ranks of one machine",
            "Set launch.nodes=1, or see docker/compose.yaml",
        )
    if recipe.launch.method == "ray":
        yield Mistake(
            "launch.method",
            "a container has no Ray cluster to place the ranks",
            "Set launch.method=torchrun, or submit it by --to ray",
        )
    for folder in folders:
        if folder in _OF_IMAGES:
            yield Mistake(
                str(folder), "is mounted in the container, which has such a folder of its own", "Use a folder below it"
            )
        if not set(str(folder)).isdisjoint(',"\n'):
            yield Mistake(
                str(folder), "has commas or quotes, and Docker cannot mount such a folder", "Choose another name"
            )
