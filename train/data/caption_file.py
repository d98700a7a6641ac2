"""Caption files and metadata files: text out of bytes that came from any editor."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

ENDINGS = (".txt", ".caption")  # in this order
METADATA = ("metadata.jsonl", "metadata.csv")
# The column that names the picture, and those that may be its caption, in this order.
FILE_NAME, CAPTIONS = "file_name", ("text", "caption", "prompt")
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")


def decode(content: bytes) -> str:
    """Text in UTF-8, or what its byte order mark says; ValueError with the reason for anything else."""
    encoding = next((encoding for mark, encoding in ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text: save it as UTF-8") from error
    if CONTROL.search(text):
        raise ValueError("it is not text")
    return text


def captions(content: bytes) -> list[str]:
    """The lines of a caption file that are not blank, with single spaces."""
    return [words for line in decode(content).splitlines() if (words := single_spaced(line))]


def single_spaced(text: str) -> str:
    return " ".join(text.split())


class Row(NamedTuple):
    """One line of a metadata file: the picture that it names and its caption, or why it can't be read."""

    line: int
    file_name: str = ""
    caption: str = ""
    reason: str = ""


def rows(name: str, content: bytes) -> Iterator[Row]:
    """Every row of metadata.jsonl or metadata.csv (the image folder of Hugging Face's datasets); ValueError for no text."""
    text = decode(content)
    yield from from_jsonl(text) if name.endswith(".jsonl") else from_csv(text)


def from_jsonl(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # a caption may hold the other line breaks
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            yield Row(number, reason="it is not JSON")
            continue
        yield row(number, entry) if isinstance(entry, dict) else Row(number, reason="it is no JSON object")


def from_csv(text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for entry in reader:
            yield row(reader.line_num, entry)
    except csv.Error as error:
        yield Row(reader.line_num, reason=f"it can't be read, nor can the rest ({error})")


def row(line: int, entry: dict) -> Row:
    """A row of a metadata file, by its columns."""
    texts = {str(key).strip(): value for key, value in entry.items() if isinstance(value, str)}
    file_name = texts.pop(FILE_NAME, "").strip()
    if not file_name:
        return Row(line, reason=f"it has no {FILE_NAME}")
    column = next((column for column in CAPTIONS if column in texts), None)
    if column is None and len(texts) == 1:
        column = next(iter(texts))
    if column is None:
        return Row(line, file_name, reason=f"it has none of the columns {', '.join(CAPTIONS)}")
    caption = single_spaced(texts[column])
    return Row(line, file_name, caption, "" if caption else f"its {column} is empty")


def of_json(content: bytes) -> str:
    """The caption in a JSON file of one picture, as webdataset's tars have them; empty where it has none."""
    try:
        entry = json.loads(decode(content))
    except (ValueError, RecursionError):
        return ""
    texts = entry if isinstance(entry, dict) else {}
    return next((single_spaced(texts[key]) for key in CAPTIONS if isinstance(texts.get(key), str)), "")
