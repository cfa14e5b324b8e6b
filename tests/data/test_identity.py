"""Data are known by content: what makes them others is said, split by split, and what does not is not."""

import json
import os
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dass_jax.data import identity, load, record
from dass_jax.data.identity import Fingerprint, changes
from dass_jax.data.load import Wanted
from dass_jax.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)
ARRAYS = {
    "train_images": PIXELS[:8],
    "train_labels": np.arange(8) % 3,
    "test_images": PIXELS[8:],
    "test_labels": np.arange(4) % 3,
}


def npz(folder: pathlib.Path, **changed: Any) -> pathlib.Path:
    np.savez(folder / "data.npz", **{**ARRAYS, **changed})
    return folder / "data.npz"


def npy(folder: pathlib.Path, **changed: Any) -> pathlib.Path:
    for name, array in {**ARRAYS, **changed}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def pictures(folder: pathlib.Path) -> pathlib.Path:
    places = {"train/a": range(4), "train/b": range(4, 8), "test/a": [8], "test/b": [9]}
    for place, rows in places.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for row in rows:
            Image.fromarray(PIXELS[row]).save(folder / place / f"{row}.png")
    return folder


def told(source: Any, **wanted: Any) -> Fingerprint:
    found = load.fingerprint(Wanted(str(source), **wanted))
    # Data that were loaded have a record; only made-up ones have none.
    assert load.load(Wanted(str(source), **wanted)).record.fingerprint == found  # type: ignore[union-attr]
    return found


CHANGED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "labels": ({"train_labels": (np.arange(8) + 1) % 3}, {"train: labels"}),
    "pixels": ({"test_images": PIXELS[8:][::-1]}, {"test: images"}),
    "numbers": ({"test_images": PIXELS[:3], "test_labels": np.arange(3)}, {"test: 4 images → 3"}),
    "classes": (
        {"train_labels": np.arange(8) % 4},
        {"classes: 3 classes (0, 1, 2) → 4 classes (0, 1, 2, 3)", "train: labels"},
    ),
    "sizes": (
        {"train_images": PIXELS[:8, :5], "test_images": PIXELS[8:, :5]},
        {"images: 6×6×3 → 5×6×3", "train: images", "test: images"},
    ),
}


def without_digests(found: list[str]) -> set[str]:
    return {re.sub(r" [0-9a-f]{8} → [0-9a-f]{8}$", "", line) for line in found}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [npz, npy])
@pytest.mark.parametrize("what", CHANGED)
def test_what_changed_in_arrays_is_said_of_the_split(
    tmp_path: pathlib.Path, write: Any, what: str, streaming: bool
) -> None:
    before = told(write(tmp_path), streaming=streaming)
    changed, said = CHANGED[what]
    now = told(write(tmp_path, **changed), streaming=streaming)
    found = without_digests(changes(before, now))
    if before.by == identity.CONTENT:
        assert found == said and changes(now, now) == []
        return
    assert streaming and write is npy
    times = {"train: names, sizes or times of the files", "test: names, sizes or times of the files"}
    assert found - times == said - {"train: images", "test: images"}
    assert found & times  # both files have been written again; of another number of images that alone is said


def test_a_copy_is_the_same_and_streamed_files_are_known_by_name_size_and_time(tmp_path: pathlib.Path) -> None:
    own = pictures(tmp_path / "own")
    copied = pathlib.Path(shutil.copytree(own, tmp_path / "copied"))
    for streaming in (False, True):
        assert changes(told(own, streaming=streaming), told(copied, streaming=streaming)) == []
    os.utime(copied / "train/a/0.png", (1, 1))
    assert changes(told(own), told(copied)) == []
    (found,) = changes(told(own, streaming=True), told(copied, streaming=True))
    assert found.startswith("train: names, sizes or times of the files ") and " → " in found
    (copied / "test/b").rename(copied / "test/c")
    (copied / "train/b").rename(copied / "train/c")
    assert changes(told(own), told(copied)) == ["classes: 2 classes (a, b) → 2 classes (a, c)"]


def test_a_picture_that_is_another_is_seen_where_it_is_read(tmp_path: pathlib.Path) -> None:
    whole, limited = told(pictures(tmp_path)), [told(tmp_path, limit=4, seed=seed) for seed in (1, 2)]
    assert limited[0].train != limited[1].train and changes(*limited) == [], "another draw is no other data set"
    assert changes(whole, limited[0])[0] == "data.limit: 0 → 4"
    Image.fromarray(PIXELS[11]).save(tmp_path / "test/a/8.png")
    assert without_digests(changes(whole, told(tmp_path))) == {"test: images"}
    assert without_digests(changes(limited[0], told(tmp_path, limit=4, seed=2))) == {"test: images"}
    (tmp_path / "train/b/4.png").write_bytes((tmp_path / "train/a/0.png").read_bytes())
    assert without_digests(changes(whole, told(tmp_path))) == {"train: images", "test: images"}


def test_the_name_of_data_for_what_runs_share() -> None:
    one, other = told("digits"), told("digits", limit=50)
    assert identity.key(one) == identity.key(told("digits")) != identity.key(other)


def test_what_was_read_is_said_in_one_line(tmp_path: pathlib.Path) -> None:
    def said(source: Any, **wanted: Any) -> str:
        # As in `told`.
        return load.load(Wanted(str(source), **wanted)).record.said  # type: ignore[union-attr]

    assert said(npz(tmp_path)) == "8 + 4 images, 6×6×3, 3 classes (0, 1, 2), rarest: 2 with 2 images"
    few = npz(tmp_path, train_labels=np.array([0, 1, 1, 1, 1, 1, 2, 2]))
    assert said(few).endswith("rarest: 0 with 1 image") and said(few, streaming=True) == said(few)
    assert said(few, limit=1, seed=0).startswith("1 of 8 + 4 images") and "with 0 images" in said(few, limit=1)
    wanted = "1,437 + 360 images, 8×8×1, 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), rarest: 8 with 139 images"
    assert said("digits") == wanted
    folder = pictures(tmp_path / "pictures")
    for part in ("train", "test"):
        (folder / part / "b").rename(folder / part / "b\nc")
    assert said(folder, streaming=True) == "8 + 2 images, 6×6×3, 2 classes (a, b?c), rarest: a with 4 images"
    assert identity.classes(tuple(map(str, range(1000)))) == "1,000 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, …, 999)"


def test_a_record_is_plain_data_and_back(tmp_path: pathlib.Path) -> None:
    found = load.load(Wanted(str(pictures(tmp_path)), image_size=5, margin=1.25)).record
    assert found is not None and found.place == str(tmp_path)
    plain = json.loads(json.dumps(record.to_json(found)))
    assert record.from_json(plain, "x") == found
    how = plain["preparation"]
    assert (how["shape"], how["crop"], how["margin"], how["colour"]) == ([5, 5, 3], "centre", 1.25, "RGB")
    exact = load.load(Wanted(str(tmp_path), image_size=5, margin=1.25)).mean
    np.testing.assert_array_equal(np.float32(how["mean"]), exact)
    for damage in (
        *(None, [], {}, {**plain, "fingerprint": {}}, {**plain, "preparation": {**how, "mean": [0.5]}}),
        *(
            {**plain, "preparation": {**how, "std": "ab"}},
            {**plain, "fingerprint": {**plain["fingerprint"], "shape": 3}},
        ),
    ):
        with pytest.raises(UserError, match=r"^x is damaged \(.*\); allowed: what a run wrote$"):
            record.from_json(damage, "x")
