"""How many replicas should a runtime have?

The load of a runtime is its running jobs divided by the jobs that its replicas may run. In Foundry, a load of 75 % or
more for a minute adds a replica, and less than that for half an hour removes one. A runtime without replicas gets one
as soon as there is a job. (Source: Foundry's documentation of compute modules, "Scaling".)
"""

from __future__ import annotations

from ..config.process_settings import Scaling


class Scaler:
    """Decides on the number of replicas of one runtime.

    Attributes:
        wanted: The number of replicas that it should have.
    """

    def __init__(self, scaling: Scaling) -> None:
        """Begin with one replica at least, as Foundry does after a deployment."""
        self.scaling = scaling
        self.wanted = min(max(scaling.least, 1), scaling.most)
        self._high_since: float | None = None
        self._low_since: float | None = None

    def change(self, scaling: Scaling) -> None:
        """Follow other settings from now on."""
        self.scaling = scaling
        self.wanted = min(max(self.wanted, scaling.least), scaling.most)
        self._high_since = self._low_since = None

    def look(self, now: float, running: int, queued: int, capacity: int) -> float | None:
        """Change :attr:`wanted`, if it is time to.

        Args:
            now: Seconds.
            running: The jobs that run.
            queued: The jobs that wait.
            capacity: The jobs that the replicas may run at once; 0 if there are none.

        Returns:
            Seconds until the next look, if nothing else happens before; ``None`` if none is needed.
        """
        scaling = self.scaling
        if self.wanted == 0:
            if running or queued:
                self.wanted = 1
            self._high_since = self._low_since = None
            return None
        if scaling.fixed or not capacity:
            self._high_since = self._low_since = None
            return None
        # Nothing is removed from under a queue.
        load = max(running / capacity, 1.0 if queued else 0.0)
        high = load >= scaling.scale_up_threshold and self.wanted < scaling.most
        low = load < scaling.scale_down_threshold and self.wanted > scaling.least
        self._high_since = (now if self._high_since is None else self._high_since) if high else None
        self._low_since = (now if self._low_since is None else self._low_since) if low else None
        if self._high_since is not None:
            left = self._high_since + scaling.scale_up_delay - now
            if left <= 0:
                self.wanted += 1
                self._high_since = None
                return scaling.scale_up_delay
            return left
        if self._low_since is not None:
            left = self._low_since + scaling.scale_down_delay - now
            if left <= 0:
                self.wanted -= 1
                self._low_since = None
                return scaling.scale_down_delay
            return left
        return None
