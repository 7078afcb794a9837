"""What goes wrong between a model's source and its files on this host."""


class SourceError(Exception):
    """The files can't be had or are refused. `code` is an error code of the API, the message a sentence for people.

    `field`: the part of a registration that is to blame, where one is.
    """

    def __init__(self, code: str, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
