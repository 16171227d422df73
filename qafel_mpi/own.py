"""Code of the user's own, named `module:name` in a setting: a data set, a model, a codec."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qafel_mpi.parsing import DataError


def known_or_own(value: str, known: Sequence[str], reserved: Sequence[str] = ()) -> str:
    """The value, where it is a known name or has the form `module:name`.

    reserved: what the module can't be called here. Raises ValueError with a guess at what was meant.
    """
    module, colon, _ = value.partition(":")
    if value in known or (colon and module not in reserved):
        return value
    guess = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {guess[0]!r}?" if guess else ""
    raise ValueError(f"{value!r} is none of {', '.join(known)}, nor your own as 'module:name'{hint}")


def load(setting: str, name: str) -> Callable[..., Any]:
    """The function or class that `module:name` names. setting: the setting's key, for the message.

    Python also looks in the working folder, last: a command's own path does not have it.
    Raises DataError where there is no such thing, or where it can't be called.
    """
    module, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"{setting} = {name!r}: {error}; write 'module:name', and have the module in the working folder "
            "or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise DataError(f"{setting} = {name!r}: this is a {type(found).__name__}, not a function or a class")
    return found


def source_digest(kind: type) -> str:
    """16 hexadecimal digits of the SHA-256 of the file that defines a class; empty where there is no such file.

    Two hosts with different versions of a user's file would run two different codecs.
    """
    try:
        file = inspect.getsourcefile(kind)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""
    except (TypeError, OSError):
        return ""
