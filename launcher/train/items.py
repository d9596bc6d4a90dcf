"""How many items the losses of a micro-batch are over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence


def items_by_name(
    found: int | Mapping[str, int] | None, names: Sequence[str], samples: Callable[[], int], counter: str
) -> dict[str, int]:
    """The items of each loss in a micro-batch, by name.

    Args:
        found: what the user counted: one number for all losses, or one by name, of which one that is left out counts
            samples; None counts samples.
        names: the losses.
        samples: how many samples the micro-batch has; asked only where that counts.
        counter: what the user counted with, for messages.

    Raises:
        ValueError: items of a loss that there is not, or fewer than none.
    """
    if found is None:
        return dict.fromkeys(names, samples())
    if isinstance(found, Mapping):
        if strangers := set(found) - set(names):
            raise ValueError(f"{counter} counts {listed(strangers)}, but the losses are {listed(names)}")
        items = {name: int(found[name]) if name in found else samples() for name in names}
    else:
        items = dict.fromkeys(names, int(found))
    if min(items.values()) < 0:
        raise ValueError(f"{counter} must not be negative: {items}")
    return items


def listed(names: Iterable[str]) -> str:
    """Names in a message, in order of the alphabet."""
    return ", ".join(sorted(names))
