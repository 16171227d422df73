"""The command `replay`: a run done again from its trace, and where it differs."""

from __future__ import annotations

import code
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qafel_mpi.commands import instructions, run, show
from qafel_mpi.commands import process as job
from qafel_mpi.commands.instructions import HoldDown
from qafel_mpi.commands.interrupt import Interrupt
from qafel_mpi.commands.names import given_up, make_room
from qafel_mpi.commands.options import DataDir
from qafel_mpi.commands.process import ExitCode
from qafel_mpi.config_text import ConfigError
from qafel_mpi.outputs import is_one_of

if TYPE_CHECKING:
    from qafel_mpi.drivers.replay.verdict import Verdict
    from qafel_mpi.drivers.replay.walk import Replay

SCHEMA_VERSION = 1  # of `replay --json`: schemas/replay.json
# Of process.HEAVY what reads no variable that decides arithmetic.
WITHOUT_TORCH = ("h5py", "qafel_mpi.trace.merge", "qafel_mpi.trace.reader")
HAT = "\u0302"
EXAMPLES = (
    "Examples:\n\n"
    "  qafel-mpi replay runs/a.h5                 [dim]in one process[/dim]\n\n"
    "  mpirun -n 4 qafel-mpi replay runs/a.h5     [dim]on any number of ranks[/dim]\n\n"
    "  qafel-mpi replay runs/a.h5 --break-at 117  [dim]stop before upload 117 and look[/dim]\n\n"
    "Exit codes: 0 the same bits, 2 it can't be replayed here, 3 something differs, 75 interrupted."
)


def replay(
    trace: Annotated[Path, typer.Argument(metavar="RUN.h5", help="The trace of a run.")],
    to: Annotated[
        int | None, typer.Option(metavar="VERSION", min=0, help="Stop when the server is at this version.")
    ] = None,
    break_at: Annotated[
        int | None,
        typer.Option(
            metavar="UPLOAD",
            min=0,
            help="Stop just before this upload, a row of /updates from 0, and show it. On a terminal and in one "
            "process this ends in a Python prompt.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="AGAIN.h5", help="Also write the replay's own trace.")
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway", help="Try although something is not as it was, and go on where payloads differ."
        ),
    ] = False,
    hold: HoldDown = None,
    data_dir: DataDir = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing AGAIN.h5.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Do a run again from its trace, bit for bit, in one process or on any number of ranks.

    Every update that the server used is trained again and handed to it in the recorded order. The replay ends with
    the run's x and x̂, or names the first upload whose payload differs: its rank, host and client.
    """
    with job.all_ranks_end(), Interrupt(job.end_now) as interrupted:
        job.load(WITHOUT_TORCH)
        comm = job.world()
        with given_up():
            planned = job.from_rank_0(comm, lambda: _plan(trace, out, overwrite, data_dir, hold))
            instructions.use(
                planned["variables"]
            )  # before torch and numba are imported, which read them once
            job.load()
            interrupted.starting()
            found = _drive(
                planned,
                comm,
                to=to,
                break_at=break_at,
                anyway=anyway,
                data_dir=data_dir or run.own_data_dir() or Path(planned["data_dir"]),
                interrupted=interrupted,
            )
            if comm is None or comm.rank == 0:
                print(verdict_json(found) if as_json else text(found))
    job.leave(exit_code(found))


def _plan(
    trace: Path,
    out: Path | None,
    overwrite: bool,
    data_dir: Path | None,
    hold: instructions.Instructions | None,
) -> dict[str, Any]:
    if out is not None and is_one_of(trace, (out, out.with_suffix(".shards"))):
        raise ConfigError([f"--out {out}: the replay reads it; give its own trace another name"])
    if out is not None:
        make_room(out, overwrite)
    instructions.require(hold)
    return {
        "trace": str(trace.absolute()),
        "out": "" if out is None else str(out.absolute()),
        "data_dir": run.data_folder(data_dir),
        "variables": instructions.of_the_run(trace) if hold is None else instructions.VARIABLES[hold],
    }


def _drive(planned: dict[str, Any], comm: Any, *, break_at: int | None, **options: Any) -> Verdict:
    from qafel_mpi.drivers.replay import run as driver
    from qafel_mpi.drivers.session import NOWHERE

    look = None
    if break_at is not None:
        look = _prompt if comm is None and sys.stdin.isatty() else _shown
    return driver.run(
        Path(planned["trace"]),
        comm,
        Path(planned["out"]) if planned["out"] else NOWHERE,
        break_at=break_at,
        command_line=sys.argv,
        look=look,
        tell=_teller(),
        **options,
    )


def _teller() -> Callable[[Replay], None]:
    """Says on stderr how far it is, every few seconds."""
    due_s = time.monotonic() + show.PLAIN_SECONDS

    def tell(replay: Replay) -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + show.PLAIN_SECONDS
            done = f"{replay.at:,} of {len(replay.recorded.served):,} uploads, version {replay.version:,}"
            print(f"replay: {done}", file=sys.stderr, flush=True)

    return tell


def _shown(replay: Replay) -> None:
    """What --break-at stops at, on stdout."""
    print(state(replay))


def _prompt(replay: Replay) -> None:
    banner = (
        state(replay) + "\n`replay` is what docs/replay.md describes, `upload` the next one. Ctrl-D ends."
    )
    code.interact(banner=banner, local={"replay": replay, "upload": replay.next}, exitmsg="")


def state(replay: Replay) -> str:
    """A replay that has stopped: the server, and the upload that comes next. A line each."""
    lines = [
        ("server", f"version {replay.version}, {replay.server.filled} uploads in the buffer"),
        ("norm of x", f"{float(replay.x.double().norm()):.9g}"),
        ("norm of x̂", f"{float(replay.x_hat.double().norm()):.9g}"),
        ("norm of buffer", f"{float(replay.buffer.double().norm()):.9g}"),
    ]
    upload = replay.next
    if upload is None:
        lines.append(("next upload", "none: all were handed in"))
    else:
        same = "the same as recorded" if upload.same else "not the recorded one"
        lines += [
            ("next upload", f"number {upload.number}, of rank {upload.rank}"),
            ("client", f"{upload.client}, participation {upload.participation}"),
            ("trained from", f"version {upload.start_version}"),
            ("weight", f"{upload.weight:.9g}"),
            ("norm of update", f"{float(replay.decoded(upload).double().norm()):.9g}"),
            ("payload", f"{upload.payload.size:,} bytes, {same}"),
        ]
    return _lines(lines, 17)


def text(found: Verdict) -> str:
    """A replay's result, a line each."""
    lines = [
        ("replay of", found.trace),
        ("outcome", found.outcome),
        ("uploads", f"{found.uploads:,}, of which {found.compared:,} payloads were compared"),
        ("server steps", f"{found.server_steps:,}"),
        ("x", _end(found.x_same, found.x_digest)),
        ("x̂", _end(found.x_hat_same, found.x_hat_digest)),
    ]
    if found.first is not None:
        lines.append(("first", found.first_text))
        if found.differing > 1:
            lines.append(("differ in all", f"{found.differing:,} uploads"))
        if found.others_same or found.others_differ:
            lines.append(("trained beside it", _others(found)))
        if found.ranks > 1:
            lines.append(
                (
                    "which side erred",
                    "a replay in one process trains it again and says (not with error feedback)",
                )
            )
    if found.slips:
        lines.append(("trained twice", f"{found.slips:,} uploads: {found.slip_text}"))
    if found.x_same is False and found.x_apart is not None:
        lines.append(("x is apart by", f"{found.x_apart:.3g} in an element, at most"))
    if found.out:
        lines.append(("trace", found.out))
    lines.append(("seconds", f"{found.seconds:.2f}, {found.updates_per_s:,.0f} uploads per second"))
    return _lines(lines, 18)


def _lines(lines: list[tuple[str, str]], width: int) -> str:
    """Names in a column of so many characters; a hat above a letter is none."""
    return "\n".join(f"{name:<{width + name.count(HAT)}}{what}" for name, what in lines)


def _end(same: bool | None, digest: str) -> str:
    said = {True: "the same", False: "differs", None: "not compared"}[same]
    return f"{said}: {digest}"


def _others(found: Verdict) -> str:
    parts = [
        f"{word}: {', '.join(f'{n} of rank {rank}' for rank, n in ranks.items())}"
        for word, ranks in (("the same", found.others_same), ("other payloads", found.others_differ))
        if ranks
    ]
    return "; ".join(parts)


def verdict_json(found: Verdict) -> str:
    """The same as JSON; schemas/replay.json describes it."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(found)})


def exit_code(found: Verdict) -> ExitCode:
    if found.failed:
        return ExitCode.FAILED
    return ExitCode.INTERRUPTED if found.outcome == "interrupted" else ExitCode.DONE
