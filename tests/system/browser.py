"""Headless Chromium over its DevTools pipe (JSON messages that end in a zero byte): no driver, no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0  # for one answer; CI machines are slow at starting a browser


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Page:
    """One tab. Use as a context manager. errors: what the console has said of kind error, and uncaught exceptions."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False):
        self.errors: list[str] = []
        self._profile = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        self._to, self._from, self._process = _start(self._profile.name)
        self._buffer, self._count, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=0,
            uploadThroughput=0,
        )
        self.resize(width, height)
        self.scheme(dark=dark)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
        os.close(self._to)
        os.close(self._from)
        self._process.wait()
        self._profile.cleanup()

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def scheme(self, *, dark: bool) -> None:
        value = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def open(self, file: Path) -> None:
        """And wait until its last figure is drawn."""
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait("document.documentElement?.dataset.drawnMs")

    def wait(self, expression: str) -> Any:
        """The value of a JavaScript expression as soon as it is true."""
        end = time.monotonic() + PATIENCE_S
        while not (value := self.run(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true in {PATIENCE_S:.0f} s: {expression}; errors: {self.errors}")
            time.sleep(0.05)
        return value

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript in the page; promises are awaited. Raises AssertionError where it throws."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """With the mouse, in its middle."""
        at = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect(); "
            "return {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def screenshot(self, selector: str | None = None, *, whole: bool = False) -> bytes:
        """A PNG of what is in view, of an element, or of the whole page."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": True}
        if whole or selector:
            options["clip"] = self.run(
                f"(() => {{ const r = document.querySelector({json.dumps(selector or 'html')})"
                ".getBoundingClientRect(); return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, "
                "height: r.height, scale: 1}; })()"
            )
        return base64.b64decode(self.call("Page.captureScreenshot", **options)["data"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its answer; events that come before it are looked at."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.errors.append(str(about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.errors.append(str(about["entry"]["text"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], PATIENCE_S)[0]:
                raise TimeoutError(f"chromium said nothing for {PATIENCE_S:.0f} s")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise ConnectionError(f"chromium ended, exit code {self._process.wait()}")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)


def _start(profile: str) -> tuple[int, int, subprocess.Popen[bytes]]:
    """Chromium reads commands from its descriptor 3 and answers on 4. Returns our ends of the two pipes."""
    program = chromium()
    assert program is not None
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{command_read} 4>&{answer_write}', "bash", program,
         "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--no-first-run", "--disable-extensions", "--disable-background-networking",
         f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
        pass_fds=(command_read, answer_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(command_read)
    os.close(answer_write)
    return command_write, answer_read, process
