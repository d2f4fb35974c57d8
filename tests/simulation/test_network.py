"""What the simulated network does is what TCP may do: else the simulation would show what cannot happen."""

from random import Random

import trio

from tests.simulation.clock import Clock
from tests.simulation.network import Network, Pipe, Profile


def quick_network() -> Network:
    return Network(Clock(), Random(1), Profile(0.001, 0.001, 0.0, 0.0, 0.0, 1 << 20, 0.0))


def let_pass(network: Network, seconds: float) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.run)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=network.clock)


def test_connection_that_breaks_before_the_first_byte_has_no_end_that_was_sent() -> None:
    network = quick_network()
    pipe = Pipe(network, "here", "there")
    pipe.breaks_after = 0
    broken: list[float] = []
    pipe.on_break = lambda: broken.append(network.clock.now_s)
    pipe.put(b"lost")
    let_pass(network, 1.0)
    assert broken
    assert not pipe.arrived
    assert not pipe.ended  # the receiver would take it for one who has left


def test_sender_that_waits_is_noted_for_as_long_as_it_has_more() -> None:
    network = quick_network()
    pipe = Pipe(network, "here", "there")
    kib = bytes(1 << 10)
    for _ in range(4):  # a MiB has room
        assert pipe.room_for(256 << 10) == 256 << 10
        pipe.put(kib * 256)
    assert not pipe.room_for(1)
    let_pass(network, 4.0)
    pipe.arrived.clear()
    assert pipe.room_for(2 << 20) == 1 << 20  # and not all
    let_pass(network, 1.0)
    assert pipe.room_for(1) == 1
    assert network.stalled_s == {"here": 5.0, "there": 5.0}
    let_pass(network, 3.0)
    assert pipe.room_for(1) == 1
    assert network.stalled_s["here"] == 5.0  # nobody had to wait since
