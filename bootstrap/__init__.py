"""Makes the Python environment this project runs in; needs nothing but a Python's standard library.

`python3 -m bootstrap [GROUP...]` installs the server, and the named dependency groups of pyproject.toml, into `.venv`.
This package stays readable to older Pythons, so that they get a sentence about their version, not a syntax error.
"""
