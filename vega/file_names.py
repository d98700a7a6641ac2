"""Names of files that every system can have."""

RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{k}" for port in ("COM", "LPT") for k in range(1, 10))}  # by Windows
FORBIDDEN = set('/\\:*?"<>|')
MAX_NAME_CHARACTERS = 100  # four bytes each, and an ending, are still below the 255 bytes of Linux


def check(name: str) -> None:
    """ValueError for what can't be a file's name everywhere, without its ending, or leads into another folder."""
    bare = name.strip().rstrip(".")
    if not name.isprintable() or set(name) & FORBIDDEN or name != bare or name.startswith("."):
        raise ValueError(f"{name!r} can't be a file's name on every system: use letters, digits, - and _.")
    if not name:
        raise ValueError("An empty name can't be a file's: use letters, digits, - and _.")
    if name.partition(".")[0].rstrip().upper() in RESERVED:
        raise ValueError(f"{name!r} is a device on Windows, and can't be a file's name there: choose another.")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"A name of {len(name)} letters is too long for a file: use at most {MAX_NAME_CHARACTERS}.")
