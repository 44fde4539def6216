"""Exceptions. Messages say what was wrong, what was expected and what to do."""


class ModelError(ValueError):
    """A model file cannot be read, or its tensors do not match its configuration."""


class SettingsError(ValueError):
    """A setting of a run is invalid for this model."""


class TraceError(ValueError):
    """A file is not a routing trace, or is damaged."""


def one_of(names, word="or"):
    """``a, b or c``, with ``word`` before the last."""
    names = [str(name) for name in names]
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "nothing"
