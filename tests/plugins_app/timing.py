"""How long something takes, told in a way that other work on the machine does not change."""

import time
from collections.abc import Callable


def thread_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this thread alone, of the quickest of several runs."""
    runs = []
    for _ in range(3):
        began = time.thread_time()
        work()
        runs.append(time.thread_time() - began)
    return min(runs)
