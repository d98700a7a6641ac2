"""Whatever lies in a folder: each file is a picture, serves as a caption, or is left out by name; never a traceback."""

import json
import shutil
from pathlib import Path

import pytest
import training_files as files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.data import folder, report
from train.data.dataset import checked

SIZES = st.sampled_from([(1, 1), (7, 300), (300, 7), (64, 64), (90, 60)])
GOOD = st.builds(
    lambda seed, size, kind: files.encoded(files.picture(seed, size), kind),
    st.integers(0, 9),
    SIZES,
    st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]),
)
DAMAGED = st.builds(lambda content, share: content[: int(len(content) * share)], GOOD, st.floats(0, 0.95))
FLIPPED = st.builds(
    lambda content, at, byte: content[: at % len(content)] + bytes([byte]) + content[at % len(content) + 1 :],
    GOOD,
    st.integers(0, 10**6),
    st.integers(0, 255),
)
IMAGES = st.one_of(GOOD, GOOD, DAMAGED, FLIPPED, st.binary(max_size=40), st.just(files.bomb()))
TEXTS = st.one_of(
    st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(
        [b"", b"\r\n", "a boat\r\nand more".encode("utf-16"), "\ufeffa lake".encode(), b"\xff\xfe\xfa", b"caf\xe9"]
    ),
)
STEMS = st.sampled_from(["a", "b", "c.d", "e f", "日本", "cafe\u0301", "caf\u00e9", "CON", "0"])
ENDINGS = st.sampled_from([".png", ".jpg", ".JPEG", ".webp", ".gif"])
FOLDERS = st.sampled_from(["", "", "deep/", "3_sks dog/", "0_none/", "12_/", "001_a/deep/", "99999999999_x/"])
ROWS = st.one_of(
    st.builds(
        lambda stem, ending, text: json.dumps({"file_name": stem + ending, "text": text}).encode(),
        STEMS,
        ENDINGS,
        st.text(max_size=9),
    ),
    st.binary(max_size=30),
)
NAMED = st.one_of(
    st.tuples(st.builds("".join, st.tuples(FOLDERS, STEMS, ENDINGS)), IMAGES),
    st.tuples(st.builds("".join, st.tuples(FOLDERS, STEMS, st.sampled_from([".txt", ".caption"]))), TEXTS),
    st.tuples(st.sampled_from(["metadata.jsonl", "deep/metadata.jsonl"]), st.lists(ROWS, max_size=4).map(b"\n".join)),
    st.tuples(st.just("metadata.csv"), st.one_of(TEXTS, st.just(b'file_name,text\na.png,"a\nboat"\n\0,x\n'))),
    st.tuples(st.sampled_from(["x.psd", ".hidden.png", "Thumbs.db", "y.tar.gz"]), st.binary(max_size=9)),
)
MEMBERS = st.dictionaries(
    st.builds("".join, st.tuples(STEMS, st.sampled_from([".jpg", ".png", ".txt", ".json", ".cls"]))),
    st.one_of(IMAGES, TEXTS),
    max_size=5,
)
TARS = st.builds(
    lambda members, share: (lambda content: content[: int(len(content) * share)])(files.tar(members)),
    MEMBERS,
    st.sampled_from([1.0, 1.0, 0.7, 0.3, 0.0]),
)
TREES = st.tuples(st.lists(NAMED, max_size=12).map(dict), st.one_of(st.none(), TARS), st.sampled_from(["", "a photo"]))


def check(path: Path, tree) -> None:
    found, tar, prompt = tree
    if tar is not None:
        found = {**found, "x.tar": tar}
    files.write(path, found)
    dataset = checked(folder.read(path, prompt))
    named = {p.name.partition(": ")[0] for p in dataset.pictures} | {n.partition(", line")[0] for n, _ in dataset.left_out}
    named = {name.partition(": ")[0] for name in named}
    for name in found:
        serves = Path(name).name.startswith("metadata.") or Path(name).suffix in (".txt", ".caption")
        assert name in named or serves, f"{name} is neither a picture nor left out"
    for picture in dataset.pictures:
        assert picture.caption == " ".join(picture.caption.split()) != ""
        assert picture.width > 0 < picture.height
        assert picture.decode().size == (picture.width, picture.height)
        assert 1 <= picture.repeats <= folder.MAX_REPEATS
    for _, reason in dataset.left_out:
        assert reason
    assert report.lines(dataset, [128, 64])


def check_anew(path: Path, tree) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    check(path, tree)


OPTIONS = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def test_any_folder(tmp_path):
    run = given(TREES)(lambda tree: check_anew(tmp_path / "data", tree))
    settings(max_examples=40, **OPTIONS)(run)()


@pytest.mark.soak
def test_two_hundred_folders(tmp_path):
    run = given(TREES)(lambda tree: check_anew(tmp_path / "data", tree))
    settings(max_examples=200, **OPTIONS | {"derandomize": False})(run)()
