"""How long a run may take."""

import contextlib, signal, time

from processes import OutOfTime


class Deadline:
    def __init__(self, seconds):
        self.at = time.monotonic() + seconds

    def is_past(self, seconds=0):
        """Whether it will be past in so many seconds."""
        return time.monotonic() + seconds > self.at

    @contextlib.contextmanager
    def alarm(self):
        """What is done within ends with `OutOfTime` at the deadline, whatever it waits for."""
        def ring(*_):
            raise OutOfTime
        old = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(0.001, self.at - time.monotonic()))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
