"""Shares one resource between flows of work by the time that each has used."""


class FairShare:
    """Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with equal weights.

    Of the flows that have work, the one that has used the least time goes next. A flow
    that was idle begins where the others are: it neither owes nor saved anything up.
    """

    def __init__(self) -> None:
        """Begin with nothing used."""
        self._used_s: dict[bool, float] = {}
        self._now_s = 0.0  # virtual time: what the flow that was last chosen had used

    def choose(self, flows: set[bool]) -> bool:
        """Which of the flows that have work goes next; of equals, False."""
        used_s = {flow: max(self._used_s.get(flow, 0.0), self._now_s) for flow in flows}
        chosen = min(sorted(flows), key=used_s.__getitem__)
        self._used_s[chosen] = self._now_s = used_s[chosen]
        return chosen

    def charge(self, flow: bool, seconds: float) -> None:
        """A flow used this much time."""
        self._used_s[flow] = self._used_s.get(flow, 0.0) + seconds
