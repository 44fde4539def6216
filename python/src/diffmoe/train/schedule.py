"""Learning rate and end of a run.

``steps`` and ``max_hours`` plan the decay in advance.  If the speed of the machine
is not known, the decay can be triggered instead: by a clock time (``deadline``) or
by a file named ``decay`` in the run's folder.  Either way the rate falls linearly to
zero, and the run ends there."""

import datetime
import os


def warm_up(c, step):
    return min(1.0, (step + 1) / max(1, c.warmup))


def learning_rate(c, step, left):
    """``left``: remaining share of the full rate, in [0, 1]."""
    return c.lr * warm_up(c, step) * left


def planned(c, step, seconds):
    """Share of the full rate by step count and hours, whichever is further."""
    progress = step / c.steps
    if c.max_hours:
        progress = max(progress, seconds / 3600 / c.max_hours)
    return max(0.0, min(1.0, (1 - progress) / c.decay_fraction))


def capacity(marks, step, experts, final):
    """Capacity at a step: every expert takes every token until the first mark,
    then linearly fewer until the second (official ``capacity_schedule``)."""
    if not marks:
        return final
    a, b = marks
    return experts - (experts - final) * max(0.0, min(1.0, (step - a) / (b - a)))


class Decay:
    """Triggered decay: lasts ``decay_minutes`` from when the file appears, or
    ends at the deadline, whichever is first.  Times are seconds since 1970, so
    that an interrupted run still ends on time."""

    def __init__(self, c, folder, began=None):
        self.length = 60 * c.decay_minutes
        self.deadline = datetime.datetime.fromisoformat(c.deadline).timestamp() if c.deadline else None
        if self.deadline is not None and datetime.datetime.fromisoformat(c.deadline).tzinfo is None:
            raise ValueError(f"train.deadline = {c.deadline!r} needs a time zone, such as 2030-01-31T18:00+00:00")
        self.request = os.path.join(folder, "decay")
        self.began = began

    def left(self, now):
        if self.began is None:
            due = self.deadline is not None and now >= self.deadline - self.length
            if not due and not os.path.exists(self.request):
                return 1.0
            self.began = self.deadline - self.length if due else now
        end = self.began + self.length
        if self.deadline is not None:
            end = min(end, self.deadline)
        return max(0.0, min(1.0, (end - now) / max(end - self.began, 1e-9)))
