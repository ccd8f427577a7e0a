"""The errors that other rooms may catch: a wrong call (somebody's words), and a video that cannot be read (a row in the ledger)."""


class WrongCall(ValueError):
    """Something the caller said is wrong: what it was, the rule, and the way out. Raised before any work starts."""


class UnknownSnapshot(WrongCall):
    """A lake, data set or snapshot number that does not exist."""


class UnreadableVideo(Exception):
    """A video (or a span of one) cannot be decoded. `cause` is a short stable word, the message a plain sentence.

    Causes: missing, empty, unreadable, no_video_stream, nothing_decodes, single_picture, format_not_allowed, too_large,
    too_long, decoder_failed, decoder_killed. `attempts`: how often it was tried.
    """

    def __init__(self, cause: str, message: str):
        super().__init__(cause, message)  # both arguments, so that it survives pickling between processes
        self.cause = cause
        self.message = message
        self.attempts = 1

    def __str__(self) -> str:
        return self.message


DAMAGE = {
    "_duckdb": (
        "Error",
        "IOException",
        "InvalidInputException",
        "PermissionException",
    ),  # DuckDB's plain Error is Thrift's
    "pyarrow.lib": ("ArrowInvalid", "ArrowSerializationError"),
    "pyiceberg.exceptions": ("ValidationError",),
    "sqlalchemy.exc": ("DatabaseError", "OperationalError"),
}


def is_damage(error: BaseException) -> bool:
    """Whether an error says that files of a lake, or its catalog, are damaged, gone or cannot be reached.

    By name: whoever asks need not have loaded the libraries that raise it. Avro's text that is none is a UnicodeDecodeError.
    """
    kind = type(error)
    return isinstance(error, OSError | UnicodeDecodeError) or kind.__name__ in DAMAGE.get(kind.__module__, ())
