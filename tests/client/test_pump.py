"""The pump, without a mount: coroutines, gates, descriptors, waking."""

import os
import select

import pytest
import trio

from gkfs.client.pump import Gate, Pump


@pytest.fixture
def pump() -> Pump:
    return Pump()


def test_drive_returns_the_result(pump: Pump) -> None:
    async def answer() -> int:
        return 42

    assert trio.run(pump.drive, answer()) == 42
    pump.close()


def test_drive_raises_what_the_coroutine_raises(pump: Pump) -> None:
    async def fail() -> None:
        raise FileNotFoundError("x")

    with pytest.raises(FileNotFoundError):
        trio.run(pump.drive, fail())
    pump.close()


def test_a_waiting_coroutine_goes_on_when_its_descriptor_is_readable(pump: Pump) -> None:
    reader, writer = os.pipe()
    gate = Gate()

    def readable(events: int) -> None:
        assert events & select.EPOLLIN
        os.read(reader, 1)
        gate.open()

    async def wait() -> str:
        await gate
        return "woken"

    async def main() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_later)
            return await pump.drive(wait())

    async def write_later() -> None:
        await trio.sleep(0.05)  # long enough for the pump to sleep in trio
        os.write(writer, b"x")

    pump.register(reader, readable)
    assert trio.run(main) == "woken"
    pump.unregister(reader)
    pump.close()
    os.close(reader)
    os.close(writer)


def test_a_trio_task_can_wake_the_sleeping_pump(pump: Pump) -> None:
    gate = Gate()

    async def wait() -> str:
        await gate
        return "woken"

    async def open_later() -> None:
        await trio.sleep(0.05)
        gate.open()
        pump.wake()

    async def main() -> str:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_later)
                return await pump.drive(wait())

    assert trio.run(main) == "woken"
    pump.close()


def test_a_started_coroutine_that_fails_does_not_end_the_others(
    pump: Pump, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    async def fail() -> None:
        gate.open()
        raise RuntimeError("a bug")

    async def main() -> str:
        pump.start(fail())
        await gate
        return "alive"

    assert trio.run(pump.drive, main()) == "alive"
    assert "a bug" in caplog.text
    pump.close()


def test_an_open_gate_does_not_wait() -> None:
    gate = Gate()
    gate.open()
    with pytest.raises(StopIteration):
        gate.__await__().send(None)
