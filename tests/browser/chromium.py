"""A Chromium to test with: whichever is there. `python -m tests.browser.chromium` installs one where none is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
NONE = (
    "no Chromium is here; `python -m tests.browser.chromium` installs one, or LLAMA_GPU_TEST_CHROMIUM names its program"
)


def find() -> str | None:
    """The program of an installed Chromium: the configured one, the system's, or Playwright's own."""
    if configured := os.environ.get("LLAMA_GPU_TEST_CHROMIUM"):
        return configured
    for program in _PROGRAMS:
        if path := shutil.which(program):
            return path
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def install() -> None:
    """The system's own by apt-get where we may, since that brings its libraries, too; else Playwright's."""
    if os.getuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=False, env=quiet)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], check=False, env=quiet
        )
    if find() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False, timeout=600)


if __name__ == "__main__":
    if find() is None:
        install()
    sys.stdout.write(f"Chromium for the tests: {find() or NONE}\n")
