"""Says whether a JSON Schema can be enforced, in a process of its own: some take minutes or gigabytes to compile.

`python -m engine.runtime.schema_check SECONDS` reads schemas and writes reasons, both as lines of JSON strings.
"""

import contextlib
import json
import resource
import signal
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# What compiling may take in seconds and bytes, above what any sensible schema takes by factors of hundreds.
SECONDS = 5
_BYTES = 2 * 1024**3
# Whitespace is fixed, as `json.dumps` writes it: a model that may put any amount of it sometimes puts nothing else.
_FORM: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_REASON_LENGTH = 300


def limits() -> LLParserLimits:
    """What a grammar may cost: some 0.1 s at most for a token, for which everybody waits, and 20 MB for a sequence."""
    return LLParserLimits(
        max_grammar_size=100_000,
        initial_lexer_fuel=200_000,
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=10_000,
        verbose_errors=False,
    )


def grammar_of(schema: str) -> str:
    """The grammar of a JSON Schema. Raises ValueError."""
    return LLMatcher.grammar_from_json_schema(schema, overrides=_FORM)


def first_line(error: str) -> str:
    return error.strip().partition("\n")[0][:_REASON_LENGTH]


class SchemaChecker:
    """The other process, started at the first check and again when a schema has ended it. For one thread.

    It ends with this object.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    def why_not(self, schema: str) -> str:
        """Why a schema can't be enforced; empty if it can."""
        process = self._running()
        answer = ""
        with contextlib.suppress(OSError):
            if process.stdin is not None and process.stdout is not None:
                process.stdin.write(json.dumps(schema) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
        if answer:
            return str(json.loads(answer))
        self.close()  # which waits for its exit status
        took_long = process.returncode == -signal.SIGALRM
        return (
            f"it takes more than {self._seconds:g} s to compile" if took_long else "it takes too much memory to compile"
        )

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end()
            self._process = None

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.runtime.schema_check", str(self._seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._end = weakref.finalize(self, _end, self._process)
        return self._process


def _end(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(OSError):
        process.communicate()


def main(seconds: float) -> None:
    """Serve until the engine closes the pipe. A schema that takes too much ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        reason = _why_not(json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reason), flush=True)


def _why_not(schema: str) -> str:
    try:
        return first_line(LLMatcher.validate_grammar(grammar_of(schema), limits=limits()))
    except ValueError as error:
        return first_line(str(error))


if __name__ == "__main__":
    main(float(sys.argv[1]))
