"""`manage.py models`: a module for each of its commands, with `add_arguments` and `run`."""
