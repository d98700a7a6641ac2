"""A folder of pictures in whatever layout it has, told from what lies in it.

Captions beside pictures (.txt, .caption); kohya's folders "N_class words"; metadata.jsonl and metadata.csv of Hugging
Face's image folders; DreamBooth's flat folder with one prompt; webdataset's tars.
"""

import os
import re
import unicodedata
from pathlib import Path

from . import caption_file, image_file, tar_file
from .dataset import Dataset, SkippedFile, TrainingImage

NUMBERED = re.compile(r"(\d+)_(.*)")  # kohya's: how often an epoch shows each picture, and the caption of those without one
MAX_REPEATS = 10_000
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
NO_CAPTION = "it has no caption: write one into {} beside it, or give --instance-prompt"


def read(path: Path, instance_prompt: str = "") -> Dataset:
    """Every file of the folder, as a picture, as a caption or as left out; or those of one tar.

    instance_prompt is the caption of pictures that have no other. ValueError where there is no such folder.
    """
    if path.is_dir():
        return Folder(path, instance_prompt).read()
    if path.is_file() and path.suffix.lower() == ".tar":
        reader = Folder(path.parent, instance_prompt)
        reader.read_tar(path)
        return reader.dataset()
    what = "is a file: give the folder that it is in" if path.exists() else "does not exist"
    raise ValueError(f"{path} {what}. Pictures are read from a folder, or from a .tar file.")


class Folder:
    """The reader of one folder: what it has found so far."""

    def __init__(self, root: Path, instance_prompt: str):
        self.root, self.instance_prompt = root, " ".join(instance_prompt.split())
        self.pictures: list[TrainingImage] = []
        self.left_out: list[SkippedFile] = []
        self.multiline_captions: list[str] = []  # caption files of several lines
        self.used_captions: set[Path] = set()  # caption files
        self.sidecars: dict[tuple[Path, str, str], Path] = {}  # (folder, stem, ending) -> caption file
        self.rows: dict[Path, caption_file.Row] = {}  # picture -> its row of a metadata file

    def dataset(self) -> Dataset:
        notes = []
        if self.multiline_captions:
            count, one = len(self.multiline_captions), self.multiline_captions[0]
            notes.append(f"{count} caption files have several lines, of which the first is taken ({one} is one)")
        return Dataset(self.pictures, self.left_out, notes)

    def leave_out(self, file: Path | str, reason: str) -> None:
        name = file if isinstance(file, str) else self.name(file)
        self.left_out.append(SkippedFile(name, reason))

    def name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def read(self) -> Dataset:
        files = self.listed()
        images = [file for file in files if file.suffix.lower() in image_file.ENDINGS]
        for file in files:
            if file.suffix.lower() in caption_file.ENDINGS:
                self.sidecars[file.parent, normalized(file.stem), file.suffix.lower()] = file
        for file in files:
            if file.name.lower() in caption_file.METADATA:
                self.read_metadata(file, images)
        numbered = any(NUMBERED.fullmatch(self.top_folder(file)) for file in images)
        for file in images:
            if numbered and not NUMBERED.fullmatch(self.top_folder(file)):
                self.leave_out(file, "other pictures are in folders named N_words, and it is in none")
            else:
                self.read_picture(file)
        for file in files:
            if file.suffix.lower() not in image_file.ENDINGS:
                self.read_other(file)
        return self.dataset()

    def listed(self) -> list[Path]:
        """Every file in the folder and the folders in it, by name; what can't be listed is left out."""
        files = []
        for folder, folders, names in os.walk(self.root, onerror=self.leave_out_folder):
            folders.sort()
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    self.leave_out(Path(folder) / name, "it is a link to a folder: give that folder itself")
            for name in sorted(names):
                file = Path(folder) / name
                if not file.is_file():
                    self.leave_out(file, "it is no file, or a link to nothing")
                elif name.startswith(".") or SYSTEM_FILES & {part.lower() for part in file.relative_to(self.root).parts}:
                    self.leave_out(file, "it is a hidden file, or one of the system")
                else:
                    files.append(file)
        return files

    def leave_out_folder(self, error: OSError) -> None:
        self.leave_out(Path(error.filename), f"the folder can't be read ({error.strerror})")

    def top_folder(self, file: Path) -> str:
        """The folder right below the root that the file is in."""
        return file.relative_to(self.root).parts[0] if file.parent != self.root else ""

    def read_metadata(self, file: Path, images: list[Path]) -> None:
        """Notes each row's picture; rows that can't be used are left out."""
        known = {normalized(str(image)): image for image in images}
        try:
            rows = list(caption_file.rows(file.name.lower(), file.read_bytes()))
        except (ValueError, OSError) as error:
            self.leave_out(file, f"it can't be used: {error}")
            return
        for row in rows:
            path = os.path.normpath(file.parent / row.file_name.replace("\\", "/")) if row.file_name else ""
            image = known.get(normalized(path))
            if image:
                self.rows[image] = row
            else:
                reason = f"it names {row.file_name}, and there is no such picture" if row.file_name else row.reason
                self.leave_out(f"{self.name(file)}, line {row.line}", reason)

    def read_picture(self, file: Path) -> None:
        numbered = NUMBERED.fullmatch(self.top_folder(file))
        number, words = numbered.groups() if numbered else ("1", "")
        repeats = int(number) if len(number) < 9 else 0  # Python makes no number of thousands of digits
        if not 1 <= repeats <= MAX_REPEATS:
            self.leave_out(file, f"its folder asks for {number} repeats: 1 to {MAX_REPEATS} are possible")
            return
        try:
            caption, source = self.caption(file, words.strip())
        except (ValueError, OSError) as error:
            self.leave_out(file, str(error))
            return
        if caption:
            self.pictures.append(TrainingImage(file, self.name(file), caption, source, repeats))
        else:
            self.leave_out(file, NO_CAPTION.format(f"{file.stem}.txt"))

    def caption(self, file: Path, words: str) -> tuple[str, str]:
        """(caption, what it is from) of a picture: the first of its row, the file beside it, its folder, the prompt."""
        if row := self.rows.get(file):
            if row.reason:
                raise ValueError(f"{row.reason} (line {row.line} of the metadata)")
            return row.caption, "metadata"
        for ending in caption_file.ENDINGS:
            sidecar = self.sidecars.get((file.parent, normalized(file.stem), ending))
            if sidecar:
                return self.caption_beside(sidecar), ending
        if words:
            return words, "folder name"
        return self.instance_prompt, "--instance-prompt"

    def caption_beside(self, file: Path) -> str:
        self.used_captions.add(file)
        try:
            lines = caption_file.captions(file.read_bytes())
        except (ValueError, OSError) as error:
            raise ValueError(f"its caption {file.name} can't be used: {error}") from error
        if not lines:
            raise ValueError(f"its caption {file.name} is empty")
        if len(lines) > 1 and self.name(file) not in self.multiline_captions:
            self.multiline_captions.append(self.name(file))
        return lines[0]

    def read_other(self, file: Path) -> None:
        """A file that is no picture by its name: a tar is read, what served as a caption is done, the rest is left out."""
        name = file.name.lower()
        if name.endswith(".tar"):
            self.read_tar(file)
        elif name in caption_file.METADATA or file in self.used_captions:
            return
        elif file.suffix.lower() in caption_file.ENDINGS:
            self.leave_out(file, "no picture of its name takes its caption from it")
        elif name.endswith(tar_file.COMPRESSED):
            self.leave_out(file, "it is compressed: unpack it into a folder or a .tar")
        elif name == "metadata.parquet":
            self.leave_out(file, "parquet is not read: save it as metadata.jsonl or metadata.csv")
        else:
            self.leave_out(file, "it is neither a picture nor a caption, by its name")

    def read_tar(self, file: Path) -> None:
        try:
            samples, left_out = tar_file.samples(file)
        except OSError as error:
            self.leave_out(file, f"it can't be read ({error.strerror})")
            return
        prefix = self.name(file)
        if not samples and not left_out:
            self.leave_out(file, "it holds no files")
        for name, reason in left_out:
            self.leave_out(prefix if name == file.name else f"{prefix}: {name}", reason)
        for members in samples.values():
            self.read_sample(file, prefix, members)

    def read_sample(self, file: Path, prefix: str, members: dict[str, tar_file.Member]) -> None:
        images = tar_file.image_endings(members)
        try:
            caption, source = tar_file.caption(file, members)
            reason = NO_CAPTION.format("a .txt of its key")
        except (ValueError, OSError) as error:
            caption, source, reason = "", "", str(error)
        else:
            caption, source = (caption, source) if caption else (self.instance_prompt, "--instance-prompt")
        for ending, member in members.items():
            name = f"{prefix}: {member.name}"
            if ending in images and caption:
                self.pictures.append(TrainingImage(file, name, caption, source, member=member))
            elif ending in images:
                self.leave_out(name, reason)
            elif not images or ending not in (*tar_file.CAPTIONS, ".json"):
                self.leave_out(name, "it is neither a picture nor the caption of one, by its name")


def normalized(name: str) -> str:
    """The one spelling of names that look alike: macOS writes an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)
