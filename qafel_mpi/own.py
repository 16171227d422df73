"""Code of the user's own, named `module:name` in a setting: a data set, a model, a codec."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    Raises DataError where there is no such thing, where its file fails, or where it can't be called.
    """
    module, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    with blamed(f"{setting} = {name!r}"):
        found = _attribute(_module_or_hint(module), attribute)
        if not callable(found):
            raise DataError(f"this is a {type(found).__name__}, not a function or a class")
    return found


_HINT = "write 'module:name', and have the module in the working folder or on PYTHONPATH"


def _module_or_hint(name: str) -> ModuleType:
    """Raises DataError where there is no module of that name, and whatever an existing one raises."""
    try:
        return _module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise DataError(f"{error}; {_HINT}") from None
    except (ValueError, TypeError) as error:
        if _line(error) is not None:
            raise
        raise DataError(f"{error}; {_HINT}") from None  # what importlib says of "" and ".name"


def _attribute(module: ModuleType, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise DataError(f"{error}; {_HINT}") from None


# --- what is said of code that fails --------------------------------------------------------------------------------


@contextmanager
def blamed(settings: str, function: Callable[..., Any] | None = None, doing: str = "") -> Iterator[None]:
    """Turn what code of the user's own raises inside into one DataError: whose it is, what it raised, and where.

    settings: what names the code, "task.model = 'mine:net'". doing: what stands before an error. function: what is
    called inside, and with what its setting says it is; its own line stands in where the call itself fails. An error
    without any line of the user's is a fault of ours, and passes.
    """
    try:
        yield
    except DataError as error:
        text, place = str(error), _line(error)
        where = f" ({place})" if place is not None and place not in text else ""
        start = "" if text.startswith(settings) else f"{settings}: "
        raise DataError(f"{start}{text}{where}") from error.__cause__
    except (Exception, SystemExit) as error:
        place = _line(error) or _definition(function)
        if place is None:
            raise
        text = f"it exits: {_text(error)}" if isinstance(error, SystemExit) else _text(error)
        raise DataError(f"{settings}: {doing}{text} ({place})") from error


def said(error: BaseException) -> str:
    """Type and text of an error of the user's code, and the line of it that it came from."""
    place = _line(error)
    return _text(error) if place is None else f"{_text(error)} ({place})"


def _text(error: BaseException) -> str:
    lines = str(error.msg if isinstance(error, SyntaxError) else error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _line(error: BaseException) -> str | None:
    """'FILE, line N' of the user's code, in installed packages where it is in none of their own files."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_no_users(f.filename)]
    frames = [f for f in frames if not f.filename.startswith(_INSTALLED)] or frames
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else None


def _definition(function: Callable[..., Any] | None) -> str | None:
    """'FILE, line N' of a function."""
    if function is None:
        return None
    try:
        return f"{inspect.getsourcefile(function)}, line {inspect.getsourcelines(function)[1]}"
    except (TypeError, OSError):
        return repr(function)


def _folders(*kinds: str) -> tuple[str, ...]:
    return tuple(f"{sysconfig.get_path(kind)}{os.sep}" for kind in kinds)


_OURS = f"{Path(__file__).parent}{os.sep}"
_STDLIB, _INSTALLED = _folders("stdlib"), _folders("purelib", "platlib")


def _is_no_users(file: str) -> bool:
    """Of this package, of the standard library, of those that call a user's code, or no file at all."""
    standard = file.startswith(_STDLIB) and "-packages" not in file
    return standard or file.startswith(("<", _OURS)) or "/torch/" in file or "/numpy/" in file


# --- finding it -----------------------------------------------------------------------------------------------------


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
