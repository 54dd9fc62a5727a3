"""A headless Chromium that tests talk to through pipes (the DevTools protocol): no driver, no port, no network.

`python tests/unit/chromium.py report/index.html docs/report.png` takes a picture of a report with its videos loaded; a
further number cuts it at that height.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from PIL import Image

READY = "[...document.querySelectorAll('video')].every((video) => video.readyState >= 2 && !video.seeking)"
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--mute-audio", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required", "--window-size=1440,2000",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
)  # fmt: skip


def chromium() -> str:
    """Path of the browser; skips the test where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium found; on Debian: apt-get install chromium")


class Browser:
    """One page in a browser of its own; keeps what went wrong and what was loaded."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.loaded: list[str] = []
        self._number = 0
        self._session: str | None = None
        self._buffer = b""

    def __enter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        script = f'exec 3<&{to_read} 4>&{to_write}; exec "$@"'
        command = ["bash", "-c", script, "bash", chromium(), *SWITCHES, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            command, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and give its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]  # type: ignore[no-any-return]
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._from, 1 << 16)
            assert piece, "the browser has ended"
            self._buffer += piece
        first, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(first)  # type: ignore[no-any-return]

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.problems.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.problems.append(json.dumps(params["entry"]))
            case "Network.requestWillBeSent":
                self.loaded.append(params["request"]["url"])

    def run(self, program: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = self.ask("Runtime.evaluate", expression=program, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 20.0) -> None:
        """Wait until a JavaScript expression is true."""
        program = (
            f"new Promise((done, failed) => {{ const end = performance.now() + {1000 * seconds};"
            f"const look = () => {{ if ({condition}) done(true);"
            f"else if (performance.now() > end) failed('never true'); else setTimeout(look, 20); }}; look(); }})"
        )
        assert self.run(program), condition

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.wait(
            f"document.readyState === 'complete' && location.href.startsWith({json.dumps(path.resolve().as_uri())})"
        )

    def show(self, selector: str) -> None:
        """Bring an element, or its parent where it is hidden, into view: what is far away is not loaded."""
        self.run(f"document.querySelector({json.dumps(selector)})?.parentElement.scrollIntoView()")

    def picture(self, path: Path, height: int | None = None) -> None:
        """Write a PNG of the whole page, or of its upper part."""
        image = self._shot()
        image = image.crop((0, 0, image.width, min(height or image.height, image.height)))
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)  # a quarter of the size

    def pixel(self, x: float, y: float) -> tuple[int, ...]:
        """Red, green and blue, 0..255, of a place on the page."""
        found = self._shot().getpixel((round(x), round(y)))
        assert isinstance(found, tuple)
        return found

    def _shot(self) -> Image.Image:
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def main(page: str, picture: str, height: str | None = None) -> None:
    """Write a picture of a page, its videos at the sixth frame."""
    with Browser() as browser:
        browser.open(Path(page))
        browser.show("[data-viewer]")
        browser.run("new Promise((done) => setTimeout(done, 1000))")
        browser.wait(READY)
        browser.run(
            "document.querySelectorAll('[data-role=forward]').forEach((b) => { for (let i = 0; i < 5; i++) b.click() })"
        )
        browser.wait(READY)
        browser.run("new Promise((done) => setTimeout(done, 500))")
        browser.picture(Path(picture), int(height) if height else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
