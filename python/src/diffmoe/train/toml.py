"""TOML files.  Python has a reader for them since 3.11."""

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib


def read(path):
    with open(path, "rb") as f:
        return tomllib.load(f)
