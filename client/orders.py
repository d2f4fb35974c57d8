"""What the one who started a mover wants of it, as something that its coroutines can await."""

from collections import deque

from gkfs.client.pump import Gate, Pump
from gkfs.gang import Member
from gkfs.gang_wire import Message


class Orders:
    """Messages that *member* gets while *pump* runs."""

    def __init__(self, pump: Pump, member: Member) -> None:
        self._pump = pump
        self._member = member
        self._arrived: deque[Message] = deque()
        self._ended: Exception | None = None
        self._gate: Gate | None = None
        pump.register(member.fileno(), self._readable)
        self._arrived += member.take()

    async def next(self) -> Message:
        """The next one; one caller at a time. Raises GangEnded when there can be none."""
        while not self._arrived:
            if self._ended is not None:
                raise self._ended
            self._gate = Gate()
            await self._gate
        return self._arrived.popleft()

    def close(self) -> None:
        """No more of them; the pump still runs."""
        if self._ended is None:
            self._pump.unregister(self._member.fileno())

    def _readable(self, _events: int) -> None:
        try:
            self._arrived += self._member.take()
        except Exception as error:
            self._pump.unregister(self._member.fileno())
            self._ended = error
        if self._gate is not None:
            self._gate.open()
