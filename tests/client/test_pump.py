"""The pump, without a mount: coroutines, gates, descriptors, waking."""

import errno
import os
import select
from pathlib import Path
from typing import Any

import pytest
import trio

from gkfs.awake import Awake
from gkfs.client import beside
from gkfs.client import pump as pump_module
from gkfs.client.beside import Beside
from gkfs.client.pump import Gate, Pump
from gkfs.limits import AWAKE_AFTER_ROUNDS


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


def test_trio_goes_on_while_a_pump_that_shares_the_loop_waits(pump: Pump, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of a task and the end of its thread are noticed while the pump waits for its own events."""
    monkeypatch.setattr(pump_module, "LINGER_S", 3.0)
    gates = [Gate() for _ in range(10)]

    async def in_thread(gate: Gate) -> None:
        await trio.to_thread.run_sync(lambda: None)
        gate.open()
        pump.wake()

    async def wait(nursery: trio.Nursery) -> None:
        for gate in gates:
            nursery.start_soon(in_thread, gate)
            await gate

    async def main() -> None:
        pump.share_the_loop()
        with trio.fail_after(len(gates) * 1.5):
            async with trio.open_nursery() as nursery:
                await pump.drive(wait(nursery))
        pump.close()

    trio.run(main)


def test_trio_keeps_its_insides_where_they_are_expected() -> None:
    """Otherwise all is right, but slower: this is to be noticed with a new release."""
    epoll = select.epoll()

    async def main() -> bool:
        beside = Beside(epoll)
        try:
            return beside.is_known
        finally:
            beside.close()

    assert trio.run(main)
    epoll.close()


def test_without_trios_insides_the_pump_works_too(pump: Pump, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ImportError("another release")

    monkeypatch.setattr(beside, "_epoll_of_trio", fail)
    gate = Gate()

    async def in_thread() -> None:
        await trio.to_thread.run_sync(lambda: None)
        gate.open()
        pump.wake()

    async def wait(nursery: trio.Nursery) -> str:
        nursery.start_soon(in_thread)
        await gate
        return "done"

    async def main() -> str:
        pump.share_the_loop()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                outcome = await pump.drive(wait(nursery))
        pump.close()
        return outcome

    assert trio.run(main) == "done"


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "fuse_session_receive_buf failed")])
def test_without_memory_for_requests_the_session_ends(pump: Pump, error: Exception) -> None:
    async def receive() -> None:
        raise error

    async def session() -> None:
        worker = receive()
        pump._workers.add(worker)
        pump.start(worker)
        await Gate()

    with pytest.raises(type(error)):
        trio.run(pump.drive, session())
    pump.close()


def test_processors_are_kept_awake_while_events_follow_each_other(tmp_path: Path) -> None:
    device, driver = tmp_path / "cpu_dma_latency", tmp_path / "current_driver"
    device.touch()
    driver.write_text("haltpoll")
    pump = Pump(Awake(device, driver))
    reader, writer = os.pipe()
    asked: list[list[int]] = []

    def latencies_us() -> list[int]:
        data = device.read_bytes()
        return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]

    async def rounds(number: int) -> None:
        for _ in range(number):
            gate = Gate()
            gates.append(gate)
            os.write(writer, b"x")
            await gate

    def readable(_events: int) -> None:
        os.read(reader, 1)
        gates.pop().open()

    gates: list[Gate] = []

    async def main() -> None:
        pump.register(reader, readable)
        for number in (AWAKE_AFTER_ROUNDS - 1, 3 * AWAKE_AFTER_ROUNDS):
            await pump.drive(rounds(number))
            asked.append(latencies_us())
            async with trio.open_nursery() as nursery:  # it sleeps, and the rounds before count no more
                last = Gate()
                nursery.start_soon(end_later, last)
                await pump.drive(wait(last))
            asked.append(latencies_us())

    async def wait(gate: Gate) -> None:
        await gate

    async def end_later(gate: Gate) -> None:
        await trio.sleep(0.05)
        gate.open()
        pump.wake()

    trio.run(main)
    held = [2_000_000_000, 0]
    assert asked == [held[:1], held[:1], held, [*held, held[0]]]
    pump.close()
