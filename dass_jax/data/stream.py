"""Reading many images in a given order: by several threads, a bounded number ahead of their use, batch by batch.

grain has the threads, the bound and the order; which rows are read is the caller's. A batch depends on its rows and
places alone, so what is read does not depend on threads or speed.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dass_jax.data.arrays import Source, Split
from dass_jax.errors import UserError

AHEAD = 4
"""Images for each thread that are read before they are asked for. More would be slower, not faster: for each image
grain asks all of them whether they are done."""
View = Callable[..., np.ndarray]
"""(uint8 [H, W, C] as it was read, place in the order) → uint8 [S, S, C] as the network sees it; with `exact=True` no
value comes out that did not go in, as masks need it."""


def batches(source: Source, rows: np.ndarray, view: View, shape: tuple[int, ...], size: int) -> Iterator[Split]:
    """The examples `rows` (integers [N]) in that order, `size` at a time, the last batch perhaps smaller.

    Beside the batch that was handed out, that which is put together is held, and `AHEAD` images of each thread.

    Args:
      view: of each image, with its place 0 … N − 1 in `rows`.
      shape: what `view` must return, (H, W, C).

    Raises:
      UserError: if an image cannot be read or has another shape, or grain is not installed.
    """
    try:
        import grain
    except ImportError as error:
        raise UserError(
            "data.source and data.streaming need the package grain to read images one by one; "
            "allowed: after pip install 'dass_jax[data]'"
        ) from error

    def example(place: int) -> tuple[np.ndarray, Any]:
        row = int(rows[place])
        image, label = source.example(row)
        if source.masks and label.shape != image.shape[:2]:
            has, wanted = ("×".join(map(str, found)) for found in (label.shape, image.shape[:2]))
            raise UserError(f"the mask of {source.name(row)} is {has}; allowed: {wanted}, as the image")
        image = view(image, place)
        if image.shape != tuple(shape):
            has, wanted = ("×".join(map(str, found)) for found in (image.shape, shape))
            raise UserError(f"{source.name(row)} is {has}; allowed: {wanted} as the first one, or data.image_size")
        return image, view(label[..., None], place, exact=True)[..., 0] if source.masks else np.int32(label)

    threads = min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=min(size, AHEAD * threads))
    for images, labels in grain.MapDataset.range(len(rows)).map(example).to_iter_dataset(options).batch(size):
        yield Split(images, labels)
