"""Ray's environment variables for a Ray that listens at loopback only and asks every caller for its token.

Ray reads them when it is imported, and every process that it starts inherits them.
"""

import importlib.metadata
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

MIN_RAY_VERSION = (2, 58)  # before it, a replica's gRPC port asked for no token and unpickled what came
MIN_TOKEN_LENGTH = 32  # characters
MIN_DISTINCT_CHARACTERS = 8
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# What an operator may set besides. None of these changes where Ray listens, whom it answers or whose code it runs.
ALLOWED_VARIABLES = re.compile(
    r"RAY_(TMPDIR|WORKER_NICENESS|COLOR_PREFIX|DEDUP_LOGS|LOG_TO_DRIVER|BACKEND_LOG_LEVEL|ROTATION_(MAX_BYTES|BACKUP_COUNT)"
    r"|USAGE_STATS_ENABLED|MEMORY_USAGE_THRESHOLD|MEMORY_MONITOR_REFRESH_MS|OBJECT_STORE_ALLOW_SLOW_STORAGE"
    r"|DISABLE_DOCKER_CPU_WARNING|ACCEL_ENV_VAR_OVERRIDE_ON_ZERO|EXPERIMENTAL_NOSET_[A-Z_]+)"
)
SET_BY_IMPORT = {"RAY_CLIENT_MODE": "0"}  # by `import ray`, and inherited from a program that has done so


def check_version() -> None:
    """ValueError where Ray is missing or older than MIN_RAY_VERSION."""
    wanted = ".".join(map(str, MIN_RAY_VERSION))
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"Ray Serve is not installed: pip install 'ray[serve]>={wanted}'") from None
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < MIN_RAY_VERSION:
        raise ValueError(f"Ray {version} doesn't ask everybody for a token: pip install 'ray[serve]>={wanted}'")


def private_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to set before Ray is imported. ValueError names the variables that are not allowed, without a token."""
    check_version()
    mode = environment.get("RAY_AUTH_MODE", "token")
    if mode.lower() != "token":
        raise ValueError(
            f"RAY_AUTH_MODE is {mode!r}, but without a token whoever reaches Ray can run any program: unset it, or say token"
        )
    others = {name for name in environment if name.upper().startswith("RAY_")} - {"RAY_AUTH_MODE", *TOKEN_VARIABLES}
    others -= {name for name, value in SET_BY_IMPORT.items() if environment.get(name) == value}
    if refused := sorted(name for name in others if not ALLOWED_VARIABLES.fullmatch(name.upper())):
        raise ValueError(
            f"{', '.join(refused)}: python -m serve starts a Ray of its own that only this machine reaches, and takes no "
            "such variables: unset what is named here"
        )
    # "0" makes 127.0.0.1 the node's address on Linux, too, and all of its servers listen there.
    return {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **token_variables(environment)}


def token_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The operator's token, or a random one of 256 bits, which is in no file and on no command line. ValueError as above."""
    given, path = (environment.get(name) for name in TOKEN_VARIABLES)
    if not given and not path:
        return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if given:
        check_token(given, "RAY_AUTH_TOKEN")
    if not path:
        return {"RAY_AUTH_TOKEN": given}
    file = Path(path).absolute()
    try:
        content, mode = file.read_text(encoding="utf-8"), file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"RAY_AUTH_TOKEN_PATH: {file.name!r} can't be read ({why})") from None
    if os.name == "posix" and mode & 0o077:
        raise ValueError(f"RAY_AUTH_TOKEN_PATH: {file.name!r} is not its owner's alone: chmod 600 it")
    check_token(content.strip(), f"RAY_AUTH_TOKEN_PATH: what {file.name!r} holds")
    return {"RAY_AUTH_TOKEN_PATH": str(file)}


def check_token(token: str, name: str) -> None:
    """ValueError where it is short, repetitive, or not printable ASCII, which a header requires. name: of its variable."""
    if len(token) < MIN_TOKEN_LENGTH or len(set(token)) < MIN_DISTINCT_CHARACTERS or not re.fullmatch("[!-~]+", token):
        raise ValueError(
            f"{name} is no token that nobody guesses, of at least {MIN_TOKEN_LENGTH} random letters and digits: "
            "unset it, and one is made, or take what ray get-auth-token --generate makes"
        )
