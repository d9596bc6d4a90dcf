"""The samples of a data set that take the most memory, to try with what fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task import SampleSource, Task, tensors_of

EXAMINED = 256  # samples that are loaded to see how large they are, where the task does not tell


def largest_samples(
    task: Task, data: SampleSource, batches: KeyedBatches, count: int, looked: Callable[[int], None]
) -> Sequence[int]:
    """Samples that are as large as any, the largest first; at most `count`, and fewer where few were examined.

    Where the task does not tell, they are the largest among some that lie evenly over the data, by their bytes.

    Args:
        task: the task, which may know.
        data: the training data.
        batches: loads samples.
        count: how many are wanted.
        looked: told how many were examined, as they are.

    Raises:
        ValueError: the task names samples that there are not.
    """
    told = task.largest_samples(count)
    if told is not None:
        if not told or not all(0 <= index < len(data) for index in told):
            raise ValueError(f"{type(task).__name__}.largest_samples must return samples from 0 to {len(data) - 1}")
        return list(told)[:count]
    if tensors_of(task, data) is not None:
        return range(min(count, len(data)))  # rows of tensors, one as large as the other
    examined = sorted({len(data) * place // EXAMINED for place in range(EXAMINED)})
    sizes = {}
    for index in examined:
        (sample,) = batches.samples(Wanted(0, [index]))
        sizes[index] = _bytes_of(sample)
        looked(len(sizes))
    return sorted(examined, key=lambda index: -sizes[index])[:count]


def _bytes_of(sample: Any) -> int:
    return sum(_bytes_of_leaf(leaf) for leaf in tree_leaves(sample))


def _bytes_of_leaf(leaf: Any) -> int:
    if isinstance(leaf, Tensor | np.ndarray):
        return int(leaf.nbytes)
    if isinstance(leaf, str | bytes):
        return len(leaf)
    return 8  # a number, or what cannot be measured
