"""The circuit breaker: a plugin that fails again and again is not called any more."""

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after `max_failures` in a row; after `retry_seconds` (0: never) it lets one caller at a time try again.

    A call that does not return keeps a thread. So many at a time open it too, whatever goes well between them, and
    while there is one, nobody tries again: there are never many more than that.

    `clock` gives Unix seconds, since the time at which it opened is shared with other processes.
    """

    def __init__(self, *, max_failures: int, retry_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.max_failures = max_failures
        self.retry_seconds = retry_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._trial_since: float | None = None
        self._hanging = 0

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    def admits(self) -> bool:
        """Whether the plugin may be called for one more request; the caller then tells how it went."""
        if self._opened_at is None:
            return True
        with self._lock:
            now = self._clock()
            if self._opened_at is None:
                return True
            if self._hanging:
                return False
            if not self.retry_seconds or now < self._opened_at + self.retry_seconds:
                return False
            if self._trial_since is not None and now < self._trial_since + self.retry_seconds:
                return False
            self._trial_since = now
            return True

    def succeeded(self) -> bool:
        """A request went well. True when this has closed the breaker."""
        if not self._failures and self._opened_at is None:
            return False
        with self._lock:
            was_trial = self._trial_since is not None
            if self._opened_at is not None and not was_trial:
                return False  # it began before the breaker opened
            self._failures = 0
            closed = self._opened_at is not None
            self._opened_at = self._trial_since = None
            return closed

    def failed(self) -> bool:
        """A request went badly. True when this has opened the breaker, or kept it open after a trial."""
        with self._lock:
            self._failures += 1
            if self._opened_at is not None and self._trial_since is None:
                return False
            if self._opened_at is None and self._failures < self.max_failures:
                return False
            self._opened_at = self._clock()
            self._trial_since = None
            return True

    def hung(self) -> bool:
        """A call has not returned; besides, it has failed. True when this has opened the breaker."""
        with self._lock:
            self._hanging += 1
            if self._opened_at is not None or self._hanging < self.max_failures:
                return False
            self._opened_at = self._clock()
            return True

    def returned(self) -> None:
        """A call that hung has returned after all."""
        with self._lock:
            self._hanging -= 1

    def follow(self, opened_at: float | None) -> None:
        """Take over what another process found: open since then, or closed."""
        with self._lock:
            if opened_at is None:
                if self._opened_at is not None:
                    self._failures = 0
                    self._opened_at = self._trial_since = None
            elif self._opened_at is None or opened_at > self._opened_at:
                self._opened_at, self._trial_since = opened_at, None
