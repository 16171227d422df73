"""Block of docs/results.md: this project's own goals for bytes and uploads to a target, judged with two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from docs.render import headline
from docs.render.findings_tasks import setting_of
from docs.render.pages import table
from docs.render.records import NOTHING, digits, origin
from docs.render.verdicts import Interval, at_least, at_most, needed, saved, shown

MOST_UPLOADS = 1.05  # times FedBuff's
TASKS = {"the paper's CNN": "fashion-mnist", "a transformer": "text"}
# Bits up and down, with the times fewer payload bytes up that are wanted; 4 bits down are the way out.
GOALS = {
    "2 bits": (("eden 2 bits up", "eden 2 bits down"), 15.0),
    "1 bit": (("eden 1 bits up", "eden 1 bits down"), 28.0),
    "2 bits up, 4 down": (("eden 2 bits up", "eden 4 bits down"), 15.0),
    "1 bit up, 4 down": (("eden 1 bits up", "eden 4 bits down"), 28.0),
}
_WORDS = {True: "reached", False: "missed", None: "open"}
_HEADER = (
    "",
    "eden",
    "uploads / FedBuff's",
    f"at most {MOST_UPLOADS}",
    "FedBuff's payload up / this",
    "at least",
    "",
    "an upload's alone",
    "uploads that it leaves",
)


def goals() -> str:
    """A goal whose bound lies within the interval is open."""
    records = [name for task in TASKS.values() for name in headline.records_of(task)]
    lines = [line for words, task in TASKS.items() for line in _lines(words, headline.joined(task))]
    spreads = (f"{_spread(headline.joined(task)):.0%} with {words}" for words, task in TASKS.items())
    text = (
        "`an upload's alone` is how many times fewer bytes one upload has, and `uploads that it leaves` with how "
        "many times FedBuff's uploads the goal for bytes is still reached. FedBuff's own uploads have a standard "
        f"deviation over seeds of {' and '.join(spreads)}."
    )
    return f"{table(_HEADER, lines, right=(2, 4, 5, 7, 8))}\n\n{text}\n\n{origin(*records)}"


def _lines(words: str, found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    fedbuff = _fedbuff(found)
    for bits, (parts, wanted) in GOALS.items():
        own = setting_of(found, "qafel", parts)
        uploads, bytes_up = (needed(own), saved(own, "payload_bytes_up")) if own else (None, None)
        alone = _an_upload(fedbuff) / _an_upload(own) if own and own["reached"] else None
        yield (
            words,
            bits,
            shown(uploads),
            _verdict(uploads, at_most, MOST_UPLOADS),
            shown(bytes_up),
            f"{wanted:.0f}",
            _verdict(bytes_up, at_least, wanted),
            *(NOTHING if n is None else digits(n) for n in (alone, alone and alone / wanted)),
        )


def _verdict(
    found: Interval | None, judge: Callable[[Interval | None, float], bool | None], bound: float
) -> str:
    """
    >>> [_verdict(one, at_least, 15) for one in ((14.8, 13.7, 15.4), (16.0, 15.5, 16.5), None)]
    ['open; by the mean missed', 'reached', 'not run']
    """
    if found is None:
        return "not run"
    if (holds := judge(found, bound)) is not None:
        return _WORDS[holds]
    return f"open; by the mean {_WORDS[judge((found[0],) * 3, bound)]}"


def _fedbuff(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(one for one in found if one["algorithm"] == "fedbuff")


def _an_upload(one: Mapping[str, Any]) -> float:
    return one["mean"]["payload_bytes_up"] / one["mean"]["uploads"]


def _spread(found: Sequence[Mapping[str, Any]]) -> float:
    fedbuff = _fedbuff(found)
    return fedbuff["standard_deviation"]["uploads"] / fedbuff["mean"]["uploads"]
