"""PURE. Present rate of a counter, from samples taken now and then."""

from collections import deque


class RateMeter:
    """Mean rate over the last `window_s` seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, float]] = deque()

    def sample(self, at_s: float, total: float) -> None:
        """Notes the counter's value at a moment (seconds of any steady clock)."""
        self._samples.append((at_s, total))
        while len(self._samples) > 2 and self._samples[1][0] <= at_s - self._window_s:
            self._samples.popleft()

    def forget(self) -> None:
        """Begins anew."""
        self._samples.clear()

    @property
    def per_second(self) -> float | None:
        """The rate; None until two samples are there."""
        if len(self._samples) < 2:
            return None
        (since, before), (at, total) = self._samples[0], self._samples[-1]
        return (total - before) / (at - since) if at > since else None
