"""Markdown that the reports share."""


def table(head, rows):
    lines = ["| " + " | ".join(map(str, r)) + " |" for r in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
