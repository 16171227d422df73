"""The run's books on rank 0: updates and steps into the trace, evaluation, progress, and when to stop."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from qafel_mpi.algorithms.bounds import CLIPPED, REJECTED, WRAPPED, Finding
from qafel_mpi.algorithms.server import Server, Step
from qafel_mpi.drivers.build import Progress, Report, Setup
from qafel_mpi.drivers.failures import EvaluationError, evaluating
from qafel_mpi.drivers.survival.rejections import Origin, Rejections
from qafel_mpi.kernels.state import State
from qafel_mpi.tasks import Evaluation
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import DROPPED
from qafel_mpi.wire import HEADER_BYTES

NAN = float("nan")
COUNTS = (  # what a checkpoint keeps of it
    "uploads",
    "payload_bytes_up",
    "payload_bytes_down",
    "messages_down",
    "accuracy",
    "loss",
    "evaluated_version",
    "uploads_to_target",
    "seconds",
)


class Ledger:
    """Counts what the protocol moved and decides, from the [stop] section, when the run is over.

    payload_bytes_down counts a broadcast once per server step, as the paper does; the links' own sum is the
    transport's to know.
    """

    def __init__(
        self,
        setup: Setup,
        server: Server,
        recorder: Recorder,
        report: Report | None,
        evaluate: Callable[[Tensor], Evaluation] | None = None,
    ):
        """evaluate: in place of doing it here."""
        self.setup, self.server, self.recorder, self.report = setup, server, recorder, report
        self.evaluate = evaluate or self._evaluate_here
        self.stop = setup.experiment.stop
        self.evaluation = setup.experiment.evaluation
        self.uploads = 0
        self.rejections = Rejections(self._record_finding, server.config.buffer_size)
        self.payload_bytes_up = 0
        self.payload_bytes_down = 0
        self.messages_down = 0
        self.accuracy, self.loss = NAN, NAN
        self.evaluated_version = -1
        self.uploads_to_target: int | None = None
        self.reason = ""  # why the run ends; empty while it goes on
        self.evaluation_failed = False
        self.seconds = 0.0
        self._wrapped = False  # a broadcast did, and it was said

    def open(self) -> None:
        """The row of version 0."""
        self._write(Step(0, 0, 0), 0.0, evaluate=True)

    def received(
        self,
        *,
        client: int,
        participation: int,
        start_version: int,
        weight: float,
        loss: float,
        examples: int,
        payload_bytes: int,
        train_seconds: float,
        start_s: float,
        finish_s: float,
        use: int,
        order: int,
        rank: int,
        digest: int,
    ) -> None:
        """An update that the server has taken; times in seconds on the run's clock."""
        version = self.server.version
        row = (
            client,
            participation,
            start_version,
            version,
            version - start_version,
            weight,
            loss,
            examples,
            payload_bytes,
            train_seconds,
            start_s,
            finish_s,
            use,
            order,
            rank,
            digest,
        )
        self.received_all([row], payload_bytes)

    def dropped(self, rank: int, payload_bytes: int, finish_s: float, digest: int) -> None:
        """A message that failed the check, in its place among the updates. It is no upload."""
        unknown, version = -1, self.server.version
        values = (unknown, unknown, unknown, version, unknown, 0.0, NAN, 0, payload_bytes, NAN, NAN, finish_s)
        self.recorder.updates.append((*values, DROPPED, unknown, rank, digest))

    def received_all(self, rows: Sequence[tuple[Any, ...]], payload_bytes: int) -> None:
        """Updates that the server has taken, as rows of /updates. payload_bytes: of all of them."""
        self.recorder.updates.extend(rows)
        self.uploads += len(rows)
        self.payload_bytes_up += payload_bytes
        if self.stop.uploads is not None and self.uploads >= self.stop.uploads:
            self.reason = self.reason or "finished"

    def found(self, findings: Sequence[Finding], origin: Callable[[int], Origin], received: int) -> set[int]:
        """What the server rejected or clipped among the updates that it took last; origin: of each, by index.

        Returns which of them were rejected.
        """
        if not findings:
            return set()
        self.rejections.note(findings, origin, received=received, uploads=self.server.uploads)
        self.reason = self.reason or self.rejections.reason
        return {finding.at for finding in findings if finding.kind == REJECTED}

    def _record_finding(self, kind: str, origin: Origin, why: str) -> None:
        client, rank, host, version = origin
        self.recorder.fault(kind, rank=rank, host=host, client=client, version=version, detail=why)

    def room(self) -> int:
        """Uploads until the server's buffer is full or the run may be over: what comes behind that is for nothing."""
        room = min(self.server.room, self.rejections.room(self.server.uploads))
        return room if self.stop.uploads is None else min(room, self.stop.uploads - self.uploads)

    def sent_down(self, payload_bytes: int, messages: int = 1) -> None:
        """Broadcasts (each counted once) or unicast downloads. payload_bytes: of all of them."""
        self.payload_bytes_down += payload_bytes
        self.messages_down += messages

    def stepped(self, step: Step, time_s: float) -> None:
        """A server step. Evaluates where it is due, and looks at every way to stop."""
        if step.wrapped:
            self._note_wrapped(step)
        due = self.evaluation.due(step.version, self.setup.clients, self.server.config.buffer_size)
        last = self.stop.steps is not None and step.version >= self.stop.steps
        self._write(step, time_s, evaluate=due or last)
        if last:
            self.reason = self.reason or "finished"

    def _note_wrapped(self, step: Step) -> None:
        why = f"buckets of the broadcast: {step.wrapped}; raise downlink.bits or downlink.spacing"
        self.recorder.fault(WRAPPED, rank=0, version=step.version - 1, detail=why)
        if not self._wrapped:
            print(
                f"qafel-mpi: {WRAPPED}: {why}; from now on only the trace says so",
                file=sys.stderr,
                flush=True,
            )
        self._wrapped = True

    def tick(self, time_s: float) -> None:
        """Look at the clock's limit; time_s on the run's clock."""
        self.seconds = time_s
        virtual = self.setup.experiment.clock.kind == "virtual"
        limit = self.stop.virtual_seconds if virtual else self.stop.seconds
        if limit is not None and time_s >= limit:
            self.reason = self.reason or "finished"

    def close(self, time_s: float) -> None:
        """Make sure that accuracy and loss are those of the final model."""
        self.seconds = time_s
        if self.evaluated_version == self.server.version or self.evaluation_failed:
            return
        try:
            self._evaluate()
        except EvaluationError as error:
            self._fail(error)

    def state(self) -> State:
        """The counts so far, and the last evaluation."""
        return {name: getattr(self, name) for name in COUNTS} | {"rejections": self.rejections.state()}

    def restore(self, state: State) -> None:
        """Go on from there. Raises KeyError, TypeError or ValueError where the state is no ledger's."""
        for name in COUNTS:
            setattr(self, name, state[name])
        self.rejections.restore(state["rejections"])

    def target_reached(self) -> bool:
        return self.uploads_to_target is not None

    def totals(self) -> dict[str, Any]:
        """Counts for the trace's attributes and the summary."""
        up, down = self.setup.paper_bytes()
        return {
            "uploads": self.uploads,
            "rejected_updates": self.rejections.total(REJECTED),
            "clipped_updates": self.rejections.total(CLIPPED),
            "server_steps": self.server.version,
            "uploads_to_target": -1 if self.uploads_to_target is None else self.uploads_to_target,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "bits_per_byte": self.setup.task.bits_per_byte(self.loss),
            "entropy_bits_per_byte": self.setup.task.entropy_bits_per_byte,
            "payload_bytes_up": self.payload_bytes_up,
            "payload_bytes_down": self.payload_bytes_down,
            "wire_bytes_up": self.payload_bytes_up + HEADER_BYTES * self.uploads,
            "wire_bytes_down": self.payload_bytes_down + HEADER_BYTES * self.messages_down,
            "paper_bytes_per_upload": up,
            "paper_bytes_per_broadcast": down,
            "paper_bytes_up": up * self.uploads,
            "paper_bytes_down": down * self.messages_down,
        }

    def _write(self, step: Step, time_s: float, *, evaluate: bool) -> None:
        self.seconds = time_s
        loss = accuracy = gradient = NAN
        if evaluate:
            try:
                loss, accuracy = self._evaluate()
                gradient = self._gradient()
            except EvaluationError as error:
                self._fail(error)
        self.recorder.steps.append(
            (
                step.version,
                self.uploads,
                time_s,
                loss,
                accuracy,
                gradient,
                step.gap,
                step.step_norm,
                step.difference_norm,
                step.gap,  # ‖Q_s(v) − v‖₂ is ‖x − x̂‖₂ in every mode
                self.payload_bytes_up,
                self.payload_bytes_down,
                self.messages_down,
                self.setup.task.bits_per_byte(loss),
            )
        )
        if evaluate and self.report is not None:
            self.report(self.progress())

    def progress(self) -> Progress:
        return Progress(
            self.seconds,
            self.uploads,
            self.server.version,
            self.accuracy,
            self.loss,
            self.payload_bytes_up,
            self.payload_bytes_down,
            self.setup.task.bits_per_byte(self.loss),
        )

    def _evaluate_here(self, x: Tensor) -> Evaluation:
        with evaluating():
            return self.setup.task.evaluate(x, self.evaluation.examples)

    def _gradient(self) -> float:
        """‖∇f(x)‖² where it is asked for. Raises EvaluationError."""
        if not self.setup.experiment.trace.gradient_norm:
            return NAN
        with evaluating():
            return self.setup.task.gradient_norm_squared(self.server.x)

    def _fail(self, error: EvaluationError) -> None:
        """An evaluation failed, and so has the run: an earlier reason, to have finished say, does not hide it."""
        self.evaluation_failed = True
        self.accuracy, self.loss = NAN, NAN
        self.reason = f"failed: evaluation of version {self.server.version}: {error}"

    def _evaluate(self) -> tuple[float, float]:
        """Loss and accuracy of x. Raises EvaluationError."""
        result = self.evaluate(self.server.x)
        self.loss, self.accuracy = result.loss, result.accuracy
        self.evaluated_version = self.server.version
        accurate = self.stop.accuracy is not None and result.accuracy >= self.stop.accuracy
        low = self.stop.loss is not None and result.loss <= self.stop.loss
        if (accurate or low) and self.uploads_to_target is None:
            in_steps = self.server.config.buffer_size * self.server.version
            self.uploads_to_target = in_steps if self.evaluation.target_uploads == "steps" else self.uploads
            self.reason = self.reason or "target reached"
        if not math.isfinite(result.loss):
            self.reason = self.reason or "failed: the model's loss is not finite"
        return result.loss, result.accuracy
