"""Reading a device through an nvidia-smi of our own making."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from precast.runtime.bench import device
from precast.runtime.bench.device import device_state, process_memory, throttled, why_no_device

H200 = "NVIDIA H200, 580.95.05, 143771, 512, 1980, 3201, 1980, 41, 121.53, P0, 0x0000000000000001"
MIB = 2**20

Fake = Callable[[str], None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a shell script of the name on PATH, alone; ``$*`` are its arguments."""

    def put(body: str) -> None:
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!{shutil.which('sh', path=os.defpath) or '/bin/sh'}\n{body}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return put


def says(text: str) -> str:
    return f"echo '{text}'"


def test_state(fake: Fake) -> None:
    fake(f'case "$*" in *--id=0*noheader,nounits*) {says(H200)};; *) exit 6;; esac')
    assert device_state() == {
        "name": "NVIDIA H200",
        "driver": "580.95.05",
        "memory_bytes": 143771 * MIB,
        "memory_used_bytes": 512 * MIB,
        "clocks": {"sm": 1980, "memory": 3201, "sm_most": 1980},
        "temperature": 41,
        "power": 121.53,
        "performance_state": "P0",
        "held_back": 1,
    }
    assert why_no_device() is None
    assert device_state(1) is None


def test_nothing_is_set(fake: Fake, tmp_path: Path) -> None:
    fake(f'echo "$*" >> {tmp_path}/asked; {says(H200)}')
    device_state()
    process_memory(7)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 2
    assert all(line.startswith("--query-") for line in asked)


def test_what_the_device_does_not_tell(fake: Fake) -> None:
    fake(says("Tegra, 540.4, [N/A], [Not Supported], [N/A], [Unknown Error], [N/A], [N/A], nan, [N/A], [N/A]"))
    state = device_state()
    assert state is not None
    assert (state["name"], state["driver"]) == ("Tegra", "540.4")
    assert state["clocks"] == {"sm": None, "memory": None, "sm_most": None}
    for key in ("memory_bytes", "memory_used_bytes", "temperature", "power", "performance_state", "held_back"):
        assert state[key] is None


def test_older_drivers(fake: Fake) -> None:
    refusal = 'Field "clocks_event_reasons.active" is not a valid field to query.'
    fake(f'case "$*" in *clocks_event_reasons*) {says(refusal)}; exit 2;; *) {says(H200)};; esac')
    state = device_state()
    assert state is not None
    assert state["held_back"] == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (says("what is this"), "not understood"),
        ("printf '\\377\\000\\n\"'", "nvidia-smi"),
        ("exit 0", "lists no device"),
        (
            "echo 'NVIDIA-SMI has failed because it could not communicate' >&2; exit 9",
            "status 9: NVIDIA-SMI has failed",
        ),
        ("exit 3", "status 3: it said nothing"),
        (says("[N/A], , , , , , , , , , "), "not understood"),
    ],
)
def test_no_answer(fake: Fake, body: str, why: str) -> None:
    fake(body)
    assert device_state() is None
    assert process_memory(1) is None
    reason = why_no_device()
    assert reason is not None
    assert why in reason
    assert "\n" not in reason


def test_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_state() is None
    assert process_memory(1) is None
    assert "is not installed" in str(why_no_device())
    (tmp_path / "nvidia-smi").write_bytes(b"\x00\x01")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert device_state() is None
    assert "could not be run" in str(why_no_device())


def test_a_driver_that_hangs(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_SECONDS", 0.2)
    fake("while :; do :; done")
    assert device_state() is None
    assert "timed out" in str(why_no_device())


def test_process_memory(fake: Fake) -> None:
    fake("echo '41, 512'; echo '42, 1024'; echo '42, 6'; echo '43, [N/A]'; echo 'No running processes found'")
    assert process_memory(42) == 1030 * MIB
    assert process_memory(43) is None
    assert process_memory(4) is None


def test_throttled() -> None:
    fast = {"clocks": {"sm": 1980.0}, "held_back": 0}
    assert throttled(fast, fast) is None
    assert throttled(None, fast) is None
    assert throttled(fast, None) is None
    assert throttled(fast, {"clocks": {"sm": 1965.0}, "held_back": 1}) is None
    hot = throttled(fast, {"clocks": {"sm": 1200.0}, "held_back": 0x24})
    assert hot is not None
    assert "the power cap and its temperature (software): 1980 MHz before, 1200 MHz after" in hot
    assert "became slower: 1980 MHz before, 1500 MHz" in str(throttled(fast, {"clocks": {"sm": 1500.0}}))
    assert throttled({"clocks": {"sm": None}}, {"clocks": {"sm": 1500.0}, "held_back": None}) is None
    assert "power brake." in str(throttled({}, {"held_back": 0x80}))
