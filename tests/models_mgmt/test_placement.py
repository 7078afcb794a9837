"""Made-up fleets: which device gets a model, and what is said when none can."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BackendUnavailable, InsufficientMemory
from models_mgmt.memory_limit import parse_memory_limit
from models_mgmt.placement import SPLIT_OVERHEAD_BYTES, Asked, DeviceFacts, Held, place

GB = 1024**3


def gpu(name: str, free: float, *, total: float = 24, **extra: Any) -> DeviceFacts:
    host, device = name.split("/")
    return DeviceFacts(host, device, "cuda", int(total * GB), int(free * GB), **extra)


def cpu(host: str, free: float, **extra: Any) -> DeviceFacts:
    return DeviceFacts(host, "cpu", "cpu", 64 * GB, int(free * GB), **extra)


def asked(gigabytes: float, **extra: Any) -> Asked:
    return Asked("m", needs=lambda kind: int(gigabytes * GB), **extra)


def names(*facts: DeviceFacts, of: Asked) -> list[str]:
    return [f"{item.host}/{'+'.join(item.devices)}" for item in place(of, facts)]


def test_the_best_fit_is_the_device_that_is_filled_up_most() -> None:
    fleet = gpu("a/cuda0", 20), gpu("a/cuda1", 9), gpu("b/cuda0", 7)
    assert names(*fleet, of=asked(8)) == ["a/cuda1"]


def test_of_equals_the_least_busy_wins() -> None:
    assert names(gpu("a/cuda0", 9, busy=3), gpu("a/cuda1", 9, busy=1), of=asked(8)) == ["a/cuda1"]


def test_auto_prefers_a_gpu_and_falls_back_to_the_cpu() -> None:
    assert names(cpu("a", 60), gpu("b/cuda0", 9), of=asked(8)) == ["b/cuda0"]
    assert names(cpu("a", 60), gpu("b/cuda0", 7), of=asked(8)) == ["a/cpu"]


def test_what_is_promised_to_another_load_is_not_free() -> None:
    fleet = gpu("a/cuda0", 9, reserved_bytes=4 * GB), gpu("a/cuda1", 20)
    assert names(*fleet, of=asked(8)) == ["a/cuda1"]


def test_an_asked_device_is_taken_by_its_name_with_or_without_the_host() -> None:
    fleet = gpu("a/cuda0", 9), gpu("b/cuda0", 20)
    assert names(*fleet, of=asked(8, devices=("b/cuda0",))) == ["b/cuda0"]
    assert names(*fleet, of=asked(8, devices=("cuda0",))) == ["a/cuda0"]
    assert names(cpu("a", 60), *fleet, of=asked(8, backend="cpu")) == ["a/cpu"]


def test_a_model_larger_than_one_device_goes_over_as_few_as_will_do() -> None:
    fleet = (
        gpu("a/cuda0", 12),
        gpu("a/cuda1", 12),
        gpu("a/cuda2", 12),
        gpu("b/cuda0", 22),
        gpu("b/cuda1", 22),
        cpu("b", 60),
    )
    assert names(*fleet, of=asked(30)) == ["b/cuda0+cuda1"]
    (placement,) = place(asked(30), fleet)
    assert placement.needed_bytes == 30 * GB + SPLIT_OVERHEAD_BYTES


def test_a_model_is_never_split_over_hosts() -> None:
    with pytest.raises(InsufficientMemory):
        place(asked(30), [gpu("a/cuda0", 20), gpu("b/cuda0", 20)])


def test_several_asked_devices_split_one_model_in_their_order() -> None:
    fleet = gpu("a/cuda0", 12), gpu("a/cuda1", 12)
    assert names(*fleet, of=asked(8, devices=("cuda1", "cuda0"))) == ["a/cuda1+cuda0"]
    assert names(cpu("a", 60), of=asked(8, devices=("cpu", "cpu"))) == ["a/cpu+cpu"]


def test_a_split_over_kinds_or_hosts_is_refused() -> None:
    fleet = gpu("a/cuda0", 12), cpu("a", 60), gpu("b/cuda1", 12)
    for devices in (("cuda0", "cpu"), ("a/cuda0", "b/cuda1")):
        with pytest.raises(BackendUnavailable):
            place(asked(8, devices=devices), fleet)


def test_replicas_go_to_different_devices() -> None:
    fleet = gpu("a/cuda0", 20), gpu("a/cuda1", 20), gpu("b/cuda0", 9)
    assert sorted(names(*fleet, of=asked(8, replicas=3))) == ["a/cuda0", "a/cuda1", "b/cuda0"]
    assert sorted(names(*fleet, of=asked(8, replicas=2, devices=("a/cuda0", "a/cuda1")))) == ["a/cuda0", "a/cuda1"]
    with pytest.raises(BackendUnavailable, match="replicas"):
        place(asked(8, replicas=4), fleet)


def test_a_further_replica_avoids_the_devices_that_hold_one() -> None:
    fleet = gpu("a/cuda0", 9), gpu("a/cuda1", 20)
    assert names(*fleet, of=asked(8, taken=frozenset({"a/cuda0"}))) == ["a/cuda1"]


def test_where_the_whole_cache_does_not_fit_a_smaller_one_will_do() -> None:
    def shrinkable(**extra: Any) -> Asked:
        return asked(8, least=lambda kind: 5 * GB, **extra)

    fleet = [gpu("a/cuda0", 6), gpu("a/cuda1", 0.5), cpu("a", 60)]
    (placement,) = place(shrinkable(), fleet)
    assert (placement.device, placement.needed_bytes, placement.cap_bytes) == ("cuda0", 6 * GB, 6 * GB)
    (placement,) = place(shrinkable(), [*fleet, gpu("b/cuda0", 10)])
    assert (placement.host, placement.needed_bytes, placement.cap_bytes) == ("b", 8 * GB, 0)
    (placement,) = place(shrinkable(max_memory=parse_memory_limit("7GB")), [gpu("a/cuda0", 20)])
    assert (placement.needed_bytes, placement.cap_bytes) == (7 * GB, 7 * GB)
    with pytest.raises(InsufficientMemory) as caught:
        place(shrinkable(max_memory=parse_memory_limit("4GB")), [gpu("a/cuda0", 20)])
    assert caught.value.details["needed_bytes"] == 5 * GB


def test_max_memory_is_a_cap_on_each_device() -> None:
    (placement,) = place(asked(8, max_memory=parse_memory_limit("50%")), [gpu("a/cuda0", 20)])
    assert placement.cap_bytes == 12 * GB
    with pytest.raises(InsufficientMemory) as caught:
        place(asked(8, max_memory=parse_memory_limit("7GB")), [gpu("a/cuda0", 20)])
    assert caught.value.details["max_memory_bytes"] == 7 * GB


def test_a_full_fleet_says_what_is_needed_and_free_and_could_be_unloaded() -> None:
    held = (
        Held("old", 5 * GB, idle_seconds=90),
        Held("new", 4 * GB, idle_seconds=1),
        Held("running", GB, busy=True),
        Held("kept", GB, pinned=True),
    )
    with pytest.raises(InsufficientMemory) as caught:
        place(asked(8), [gpu("a/cuda0", 6, held=held), gpu("a/cuda1", 1)])
    details = caught.value.details
    assert (details["needed_bytes"], details["free_bytes"], details["device"]) == (8 * GB, 6 * GB, "a/cuda0")
    assert [item["model"] for item in details["could_be_unloaded"]] == ["old", "new"]
    assert details["needed"] == "8.0GB"


def test_eviction_takes_the_least_recently_used_and_no_more_than_it_must() -> None:
    held = Held("old", 5 * GB, idle_seconds=90), Held("new", 4 * GB, idle_seconds=1)
    fleet = [gpu("a/cuda0", 6, held=held), gpu("a/cuda1", 2, held=(Held("big", 20 * GB, idle_seconds=5),))]
    (placement,) = place(asked(8, may_evict=True), fleet)
    assert (placement.device, placement.evicts) == ("cuda0", ("old",))
    (placement,) = place(asked(14, may_evict=True), fleet)
    assert (placement.device, placement.evicts) == ("cuda1", ("big",))


def test_eviction_spares_the_pinned_and_counts_on_the_busy_only_where_no_idle_one_will_do() -> None:
    busy, pinned = Held("running", 9 * GB, busy=True), Held("kept", 9 * GB, pinned=True)
    with pytest.raises(InsufficientMemory) as caught:
        place(asked(8, may_evict=True), [gpu("a/cuda0", 1, held=(pinned,))])
    assert caught.value.details["could_be_unloaded"] == []

    fleet = [gpu("a/cuda0", 1, held=(busy, pinned))]
    (placement,) = place(asked(8, may_evict=True), fleet)  # once it is idle, which its worker waits for
    assert placement.evicts == ("running",)
    with pytest.raises(InsufficientMemory):
        place(asked(8), fleet)
    fleet.append(gpu("a/cuda1", 0, held=(Held("old", 9 * GB), Held("older", 1 * GB, idle_seconds=1))))
    (placement,) = place(asked(8, may_evict=True), fleet)
    assert (placement.device, placement.evicts) == ("cuda1", ("older", "old"))


@pytest.mark.parametrize("may_evict", [False, True])
def test_the_room_of_a_model_that_is_being_unloaded_counts_without_evicting_it(may_evict: bool) -> None:
    held = Held("leaving", 9 * GB, busy=True, leaving=True), Held("old", 9 * GB, idle_seconds=90)
    (placement,) = place(asked(8, may_evict=may_evict), [gpu("a/cuda0", 1, held=held)])
    assert (placement.device, placement.evicts) == ("cuda0", ())


def test_evicting_all_that_may_go_is_enough_if_a_smaller_cache_fits_then() -> None:
    fleet = [gpu("a/cuda0", 1, held=(Held("old", 5 * GB), Held("kept", 18 * GB, pinned=True)))]
    (placement,) = place(asked(8, least=lambda kind: 5 * GB, may_evict=True), fleet)
    assert (placement.evicts, placement.needed_bytes, placement.cap_bytes) == (("old",), 6 * GB, 6 * GB)


def test_nothing_is_evicted_while_there_is_room_elsewhere() -> None:
    fleet = [gpu("a/cuda0", 1, held=(Held("old", 9 * GB, idle_seconds=90),)), cpu("a", 60)]
    (placement,) = place(asked(8, may_evict=True), fleet)
    assert (placement.device, placement.evicts) == ("cpu", ())


@pytest.mark.parametrize(
    ("extra", "fleet"),
    [
        ({}, []),
        ({"backend": "cuda"}, [cpu("a", 60)]),
        ({"devices": ("cuda7",)}, [gpu("a/cuda0", 20)]),
        ({"devices": ("cuda0",), "backend": "cpu"}, [gpu("a/cuda0", 20), cpu("a", 60)]),
    ],
)
def test_what_the_fleet_lacks_is_named(extra: dict[str, Any], fleet: list[DeviceFacts]) -> None:
    with pytest.raises(BackendUnavailable):
        place(asked(1, **extra), fleet)


devices = st.builds(
    lambda host, index, free, reserved: gpu(
        f"{host}/cuda{index}", min(free, 24), reserved_bytes=int(reserved * GB), total=24
    ),
    st.sampled_from("abc"),
    st.integers(0, 3),
    st.floats(0, 24),
    st.floats(0, 4),
)


@given(st.lists(devices, max_size=8, unique_by=lambda item: item.name), st.floats(0.1, 60), st.integers(1, 3))
def test_no_placement_takes_more_than_there_is(fleet: list[DeviceFacts], need: float, replicas: int) -> None:
    try:
        placements = place(asked(need, replicas=replicas), fleet)
    except (BackendUnavailable, InsufficientMemory):
        return
    by_name = {item.name: item for item in fleet}
    used = [f"{item.host}/{device}" for item in placements for device in item.devices]
    assert len(used) == len(set(used))
    for item in placements:
        assert sum(by_name[f"{item.host}/{device}"].room for device in item.devices) >= item.needed_bytes
