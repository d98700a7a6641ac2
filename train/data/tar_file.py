"""webdataset's tar files, whose members of one key are one sample: key.jpg, key.txt, key.json. Nothing is unpacked."""

import tarfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from . import caption_file, image_file

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
CAPTIONS = (*caption_file.ENDINGS, ".text")
MAX_TEXT_BYTES = 1_000_000


class Member(NamedTuple):
    """A file in a tar, and where its bytes are."""

    name: str
    offset: int
    length: int


def samples(file: Path) -> tuple[dict[str, dict[str, Member]], list[tuple[str, str]]]:
    """Each key of the tar -> its members by their endings, in lower case; and (name, reason) of each that is left out."""
    found, left_out, size = {}, [], file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for info in tar:
                path = PurePosixPath(info.name)
                if info.isdir():
                    continue
                key, _, ending = path.name.partition(".")
                if not info.isreg() or info.issparse():
                    left_out.append((info.name, "it is a link or a special file"))
                elif not key:
                    left_out.append((info.name, "it is a hidden file"))
                elif info.offset_data + info.size > size:
                    left_out.append((info.name, "the tar ends before it does"))
                else:
                    member = Member(info.name, info.offset_data, info.size)
                    found.setdefault(str(path.with_name(key)), {})[f".{ending.lower()}"] = member
            tar.fileobj.seek(tar.offset)
            if any(tar.fileobj.read(tarfile.BLOCKSIZE)) or tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:
                left_out.append((file.name, "its end is missing: it may have lost members"))
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        left_out.append((file.name, f"its rest can't be read ({error}): it is damaged, or no tar"))
    return found, left_out


def read(file: Path, member: Member) -> bytes:
    with file.open("rb") as stream:
        stream.seek(member.offset)
        return stream.read(member.length)


def caption(file: Path, members: dict[str, Member]) -> tuple[str, str]:
    """(caption, ending of the member that has it) of a sample; ("", "") for none, ValueError where it can't be read."""
    for ending in (*CAPTIONS, ".json"):
        if ending not in members:
            continue
        if members[ending].length > MAX_TEXT_BYTES:
            raise ValueError(f"its {ending} has more than {MAX_TEXT_BYTES:,} bytes")
        content = read(file, members[ending])
        try:
            lines = [caption_file.of_json(content)] if ending == ".json" else caption_file.captions(content)
        except ValueError as error:
            raise ValueError(f"its caption {members[ending].name} can't be used: {error}") from error
        if lines and lines[0]:
            return lines[0], ending
    return "", ""


def image_endings(members: dict[str, Member]) -> list[str]:
    return [ending for ending in members if ending in image_file.ENDINGS]
