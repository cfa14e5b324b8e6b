"""scikit-learn's 1,797 grey 8×8 digits, 1,437 to train and 360 to test, always the same ones."""

import numpy as np
import sklearn.datasets
import sklearn.model_selection

from dass_jax.data.arrays import Opened, Split

_SPLIT_SEED = 0


def opened() -> Opened:
    """The digits, with their names as classes."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    train, test = sklearn.model_selection.train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=_SPLIT_SEED
    )
    labels = labels.astype(np.int32)
    parts = [Split(images[rows], labels[rows]) for rows in (train, test)]
    return Opened(parts[0], parts[1], tuple(map(str, range(10))))
