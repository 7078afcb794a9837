"""Stand-ins for supervised processes. `python fake_program.py KIND FILE`; each start adds a line with its pid to FILE.

short ends at once with status 3; long runs until SIGTERM; stubborn ignores it; parent starts a `long` in its own group.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

kind, file = sys.argv[1:]
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with Path(file).open("a") as notes:
    notes.write(f"{os.getpid()}\n")
print(f"{kind} says hello", flush=True)
if kind == "short":
    sys.exit(3)
if kind == "parent":
    subprocess.Popen([sys.executable, __file__, "long", file])
time.sleep(120)
