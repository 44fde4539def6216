"""What can be wrong with a file or a setting. The text says what was wrong, what was expected and what to do."""


class ModelError(ValueError):
    """A model file that cannot be read, or whose tensors do not fit its configuration."""


class SettingsError(ValueError):
    """A setting of a run that cannot work with this model."""


class TraceError(ValueError):
    """A file that is no routing trace, or a damaged one."""


def one_of(names):
    """``a, b or c``."""
    names = [str(name) for name in names]
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "nothing"
