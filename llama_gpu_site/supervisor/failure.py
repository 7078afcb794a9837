"""The one way a start fails: with a sentence for the person at the terminal."""


class StartError(Exception):
    """Its text says what is wrong and how to mend it."""
