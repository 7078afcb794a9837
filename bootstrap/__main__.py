"""Entry point of the set-up; the only module here that runs on the Python the user happens to have."""

import os
import sys

from bootstrap import interpreter
from bootstrap.failure import SetupError


def main(groups):
    """Prepare `.venv` for the named dependency groups; returns the exit status."""
    try:
        python = interpreter.choose(sys.version_info, sys.executable)
        if python != sys.executable:
            os.execv(python, [python, "-m", "bootstrap", *groups])  # noqa: S606
        install(groups)
    except SetupError as error:
        sys.stderr.write("[setup] stopped: %s\n" % error)  # noqa: UP031
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("[setup] stopped by Ctrl-C; run it again to go on\n")
        return 130
    return 0


def install(groups):
    # These two are written for a supported Python, so they come in only now.
    from pathlib import Path

    from bootstrap.environment import Environment, say
    from bootstrap.requirements import Requirements

    root = Path(__file__).resolve().parent.parent
    wanted = list(groups) or ["run"]
    requirements = Requirements(root)
    requirements.of(wanted)
    if Environment(root).ensure(requirements, wanted):
        say("the environment is ready")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
