"""Asking the kernel not to let processors halt: when, and that it does not matter where that cannot be had."""

import os
from pathlib import Path
from typing import Final

import pytest

from gkfs.awake import Awake

NOTHING: Final = bytes(4)
ANY: Final = (2_000_000_000).to_bytes(4, "little")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A file that stands for the kernel's: each request is written behind the one before."""
    path = tmp_path / "cpu_dma_latency"
    path.touch()
    return path


@pytest.fixture
def idle_driver(tmp_path: Path) -> Path:
    path = tmp_path / "current_driver"
    path.write_text("haltpoll\n")
    return path


def test_it_asks_once_for_each_change(device: Path, idle_driver: Path) -> None:
    awake = Awake(device, idle_driver)
    assert device.read_bytes() == ANY  # being opened asks for nothing yet
    awake.release()
    awake.hold()
    awake.hold()
    assert device.read_bytes() == ANY + NOTHING
    awake.release()
    awake.release()
    awake.hold()
    assert device.read_bytes() == ANY + NOTHING + ANY + NOTHING
    awake.close()


def test_a_closed_one_asks_for_nothing(device: Path, idle_driver: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    awake = Awake(device, idle_driver)
    awake.hold()
    awake.close()
    awake.close()
    awake.release()
    awake.hold()
    assert device.read_bytes() == ANY + NOTHING
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("driver", ["intel_idle", "none", ""])
def test_processors_that_are_not_virtual_may_sleep(device: Path, idle_driver: Path, driver: str) -> None:
    idle_driver.write_text(driver)
    awake = Awake(device, idle_driver)
    awake.hold()
    assert device.read_bytes() == b""


@pytest.mark.parametrize("missing", ["device", "idle_driver"])
def test_where_there_is_no_such_file_nothing_happens(device: Path, idle_driver: Path, missing: str) -> None:
    (device if missing == "device" else idle_driver).unlink()
    awake = Awake(device, idle_driver)
    awake.hold()
    awake.release()
    awake.close()
    assert not device.exists() or device.read_bytes() == b""


def test_who_may_not_ask_goes_on_without(idle_driver: Path, tmp_path: Path) -> None:
    awake = Awake(tmp_path, idle_driver)  # a folder: opening it for writing fails for root, too
    awake.hold()
    awake.close()


def test_a_refused_request_is_not_an_error(idle_driver: Path) -> None:
    awake = Awake(Path("/dev/full"), idle_driver)
    awake.hold()
    awake.release()
    awake.close()
