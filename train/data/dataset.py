"""The pictures of a data set with their captions, and everything that is left out of it, with the reason."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from . import image_file, tar_file


class TrainingImage(NamedTuple):
    """One picture: a file, or a member of a tar."""

    file: Path
    name: str  # within the data set, for people
    caption: str
    source: str  # what the caption is from, for the report
    repeats: int = 1  # times an epoch
    member: tar_file.Member | None = None
    width: int = 0  # these three are known once `checked` has read the picture; sizes are those of the upright picture
    height: int = 0
    digest: str = ""  # SHA-256 of the file's bytes

    def read(self) -> bytes:
        return tar_file.read(self.file, self.member) if self.member else self.file.read_bytes()

    def decode(self) -> Image.Image:
        """RGB; ValueError with the reason."""
        return image_file.decode(self.read())


class SkippedFile(NamedTuple):
    name: str
    reason: str


class Dataset(NamedTuple):
    pictures: list[TrainingImage]
    left_out: list[SkippedFile]
    notes: list[str]


def checked(dataset: Dataset, pictures: Iterable[TrainingImage] | None = None) -> Dataset:
    """The data set with every picture read once: its size and digest filled in, or left out with the reason.

    pictures: the same ones by way of a progress bar.
    """
    good, left_out = [], list(dataset.left_out)
    for picture in dataset.pictures if pictures is None else pictures:
        try:
            check_caption(picture.caption)
            content = picture.read()
            image = image_file.decode(content)
        except OSError as error:
            left_out.append(SkippedFile(picture.name, f"it can't be read ({error.strerror})"))
        except ValueError as error:
            left_out.append(SkippedFile(picture.name, str(error)))
        else:
            digest = hashlib.sha256(content).hexdigest()
            good.append(picture._replace(width=image.width, height=image.height, digest=digest))
    return Dataset(good, left_out, dataset.notes)


def check_caption(caption: str) -> None:
    """ValueError where it has surrogates: the name of a folder that is no UTF-8, or half a character in a JSON file."""
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise ValueError("its caption is not UTF-8 text") from error
