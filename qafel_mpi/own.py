"""Code of the user's own, named `module:name` in a setting: a data set, a model, a codec."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
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

    A module in the working folder comes first, also where Python has one of that name (`code`, `test`): that one
    stays what all others import. What the module itself imports is looked for in the working folder last.
    Raises DataError where there is no such thing, or where it can't be called.
    """
    module, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(_module(module), attribute)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise DataError(
            f"{setting} = {name!r}: {error}; write 'module:name', and have the module in the working folder "
            "or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise DataError(f"{setting} = {name!r}: this is a {type(found).__name__}, not a function or a class")
    return found


def _module(name: str) -> ModuleType:
    """Import it; from the working folder's file where Python would find another module of that name."""
    file = Path.cwd() / f"{name}.py"
    if "." in name or not file.is_file() or _is_from(importlib.util.find_spec(name), file):
        return importlib.import_module(name)
    alias = (
        f"qafel_own_{name}"  # of its own: under its name it would be imported by whoever wants the other one
    )
    if alias in sys.modules:
        return sys.modules[alias]
    spec = importlib.util.spec_from_file_location(alias, file)
    assert spec is not None, "a file that ends in .py"
    assert spec.loader is not None
    made = sys.modules[alias] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[alias]
        raise
    return made


def _is_from(spec: ModuleSpec | None, file: Path) -> bool:
    return spec is not None and spec.origin is not None and Path(spec.origin) == file


def source_digest(kind: type) -> str:
    """16 hexadecimal digits of the SHA-256 of the file that defines a class; empty where there is no such file.

    Two hosts with different versions of a user's file would run two different codecs.
    """
    try:
        file = inspect.getsourcefile(kind)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""
    except (TypeError, OSError):
        return ""
