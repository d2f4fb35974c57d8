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
