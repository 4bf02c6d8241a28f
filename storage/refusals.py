"""What storage refuses to people at the command line or an interface. The texts are one line and say what to do next."""


class InvalidInput(ValueError):
    """A value cannot be used as it is."""


class NotFound(LookupError):
    """What was named does not exist."""


class Conflict(RuntimeError):
    """It exists already, or something else stands against it."""
