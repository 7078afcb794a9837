"""`python -m engine.runtime FD`: an engine process that serves the worker behind the inherited socket FD."""

import sys

from engine.runtime.process import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
