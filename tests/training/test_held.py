"""What a run is said to cost: seconds of the devices that its workers hold."""

from training.held import HeldDevices


def test_devices_are_counted_from_the_start_at_the_rate_of_the_workers_there_are() -> None:
    now = [100.0]
    held = HeldDevices(clock=lambda: now[0])
    now[0] += 5
    held.hear({"event": "encode", "done": 1})
    assert held.costs() == {}, "nobody works yet"
    held.hear({"event": "start", "workers": 8, "device": "cuda:0", "threads": 4})
    now[0] += 10
    assert held.costs() == {"gpu_seconds": 80.0}
    held.hear({"event": "resume", "workers": 4, "device": "cuda:0", "threads": 4})
    now[0] += 10
    held.hear({"event": "step", "step": 7})
    assert held.costs() == {"gpu_seconds": 120.0}
    held.hear({"event": "resume", "workers": 2, "device": "cpu", "threads": 3})
    now[0] += 2
    assert held.costs() == {"gpu_seconds": 120.0, "cpu_seconds": 12.0}
