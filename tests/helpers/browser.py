"""A real headless Chromium, driven through ChromeDriver's HTTP interface with the standard library alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
CHROMEDRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and CHROMEDRIVER else "Chromium and ChromeDriver are not installed (Debian: chromium-driver)"
# It needs no network: pages are files.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


class Page:
    """One tab of a browser."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, path: Path, width: int, scheme: str = "light") -> None:
        """Load a file in a window of this width, on a system that prefers `scheme`."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", size)
        self._devtools("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.complaints()  # what an earlier page said is gone
        _post(f"{self._session}/url", {"url": path.as_uri()})

    def run(self, script: str) -> Any:
        """Run a script and return its result as a JSON value."""
        return _post(f"{self._session}/execute/sync", {"script": script, "args": []})

    def press(self, key: str) -> None:
        """Press and release a key, such as Enter, on what has the focus."""
        text = {"Enter": "\r", " ": " "}[key]
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "text": text, "windowsVirtualKeyCode": ord(text)}
            self._devtools("Input.dispatchKeyEvent", event if kind == "keyDown" else {**event, "text": ""})

    def complaints(self) -> list[str]:
        """Return new messages of the console: errors, warnings, blocked or failed loads."""
        return [entry["message"] for entry in _post(f"{self._session}/se/log", {"type": "browser"})]

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        _post(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})


@contextmanager
def browser() -> Iterator[Page]:
    """A browser that ends with the block."""
    assert MISSING is None, MISSING
    with tempfile.TemporaryDirectory() as profile:
        driver = subprocess.Popen([str(CHROMEDRIVER), "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            assert driver.stdout is not None
            port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            address = f"http://127.0.0.1:{port}/session"
            started = _post(address, {"capabilities": {"alwaysMatch": wanted}})
            session = f"{address}/{started['sessionId']}"
            try:
                yield Page(session)
            finally:
                _call(urllib.request.Request(session, method="DELETE"))
        finally:
            driver.terminate()
            driver.communicate()


def _post(address: str, content: dict[str, Any]) -> Any:
    return _call(urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"}))


def _call(request: urllib.request.Request) -> Any:
    # The driver runs on this machine, so no proxy is used.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.loads(answer.read())["value"]
