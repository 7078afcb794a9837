"""The one way a set-up step fails: with a sentence for the person at the terminal."""


class SetupError(Exception):
    """Its text says what is wrong and how to mend it."""
