"""Where a model goes: a pure function of what was asked for and of what the fleet has. No clock, no Redis, no GPU."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from common.byte_sizes import format_bytes
from common.errors import ApiError, BackendUnavailable, InsufficientMemory
from models_mgmt.memory_limit import MemoryLimit

BACKENDS = ("cuda", "mps", "cpu")  # the order in which `auto` prefers them
# A model over several devices needs a little more than on one: each holds activations and a context of its own.
SPLIT_OVERHEAD_BYTES = 512 * 1024**2
_NEVER_FITS_HINT = "No device of this fleet is large enough."


@dataclass(frozen=True, slots=True)
class Held:
    """A loaded model on a device, as somebody who needs its room sees it. `idle_seconds`: since its last request;
    `leaving`: it is being unloaded, so its room comes back by itself."""

    model_id: str
    size: int
    idle_seconds: float = 0.0
    busy: bool = False
    pinned: bool = False
    leaving: bool = False

    @property
    def may_go(self) -> bool:
        return not self.busy and not self.pinned and not self.leaving


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device of one live worker. `busy`: how many requests it runs. Sizes in bytes.

    `reserved_bytes`: promised to models that are about to be loaded there, and not yet taken from `free_bytes`.
    """

    host: str
    device: str
    kind: str
    total_bytes: int
    free_bytes: int
    reserved_bytes: int = 0
    busy: int = 0
    held: tuple[Held, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.host}/{self.device}"

    @property
    def room(self) -> int:
        return max(0, self.free_bytes - self.reserved_bytes)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be placed.

    `needs`: bytes by the kind of device, 0 where that is not known; `least`: how many will do, with a small KV cache,
    where that much is not there. `devices`: names such as `cuda0` or `host/cuda0`;
    several of them without `replicas` split one model over them, with `replicas` they are where copies may go.
    `taken`: devices (as `host/device`) that hold the model already. `may_evict`: make room, if that is needed.
    """

    model_id: str
    needs: Callable[[str], int]
    least: Callable[[str], int] | None = None
    backend: str = "auto"
    devices: tuple[str, ...] = ()
    replicas: int = 1
    max_memory: MemoryLimit | None = None
    taken: frozenset[str] = frozenset()
    may_evict: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """One engine to be started: `host` and `device` name the worker that owns it, `devices` where its layers lie.

    `needed_bytes`: what it will take, no more than it may. `cap_bytes`: what it may take at most, 0 for no limit.
    `evicts`: models that worker has to unload first, once they are idle; it alone knows whether they are by now.
    """

    host: str
    device: str
    devices: tuple[str, ...]
    needed_bytes: int
    cap_bytes: int = 0
    evicts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fit:
    placement: Placement
    left: int
    busy: int = 0
    cost: tuple[int, float] = field(default=(0, 0.0))


def place(asked: Asked, fleet: Sequence[DeviceFacts]) -> tuple[Placement, ...]:
    """One placement for each replica, on different devices. The best fit is the device that it fills up most.

    Raises BackendUnavailable when the fleet lacks what was asked for, InsufficientMemory (with what is needed, what is
    free, and what could be unloaded) when it is there and full.
    """
    candidates = _candidates(asked, fleet)
    if len(asked.devices) > 1 and asked.replicas == 1:
        return (_split_as_asked(asked, candidates),)
    chosen: list[Placement] = []
    for _ in range(asked.replicas):
        left = [facts for facts in candidates if facts.name not in asked.taken and not _used(facts, chosen)]
        chosen.append(_best(asked, left, candidates))
    return tuple(chosen)


def _candidates(asked: Asked, fleet: Sequence[DeviceFacts]) -> list[DeviceFacts]:
    if not fleet:
        raise BackendUnavailable("No worker is running; start one, or try again later.", retry_after=2)
    kinds = {facts.kind for facts in fleet}
    if asked.backend != "auto" and asked.backend not in kinds:
        raise BackendUnavailable(
            f"No running worker has the backend {asked.backend}.",
            details={"backend": asked.backend, "available": sorted(kinds)},
        )
    fitting = [facts for facts in fleet if asked.backend in {"auto", facts.kind}]
    for name in asked.devices:
        if not any(name in {facts.device, facts.name} for facts in fitting):
            raise BackendUnavailable(
                f"No running worker has the device {name}.",
                details={"device": name, "available": sorted(facts.name for facts in fleet)},
            )
    if asked.devices:
        fitting = [facts for facts in fitting if {facts.device, facts.name} & set(asked.devices)]
    return fitting


def _best(asked: Asked, left: list[DeviceFacts], candidates: list[DeviceFacts]) -> Placement:
    """The best device for one engine: whole on one if possible, else over several of a host, else with a smaller KV
    cache, else where room is about to be: models leave by themselves, or can be evicted, or can be once they are idle.
    """
    for backend in BACKENDS:
        of_kind = [facts for facts in left if facts.kind == backend]
        if (placement := _whole_on_one(asked, of_kind)) is not None:
            return placement
        if not asked.devices and (placement := _split(asked, of_kind)) is not None:
            return placement
        if (placement := _whole_on_one(asked, of_kind, shrink=True)) is not None:
            return placement
    for in_use in (False, True) if asked.may_evict else (False,):
        roomy = [fit for facts in left if (fit := _making_room(asked, facts, in_use=in_use)) is not None]
        if roomy:
            return min(roomy, key=lambda fit: (fit.cost, fit.left)).placement
    if not left:
        raise BackendUnavailable(
            "There are not enough devices for so many replicas.",
            details={"replicas": asked.replicas, "devices": len(candidates)},
        )
    raise _too_full(asked, left)


def _whole_on_one(asked: Asked, facts: Iterable[DeviceFacts], *, shrink: bool = False) -> Placement | None:
    """The device that is filled up most; with a smaller KV cache, the one that leaves most of it."""
    fits = [fit for item in facts if (fit := _whole(asked, item, shrink=shrink)) is not None]
    if not fits:
        return None
    return min(
        fits,
        key=lambda fit: (
            -fit.placement.needed_bytes if shrink else fit.left,
            fit.busy,
            fit.placement.host,
            fit.placement.device,
        ),
    ).placement


def _whole(asked: Asked, facts: DeviceFacts, *, shrink: bool = False) -> _Fit | None:
    cap = _cap(asked, facts)
    needed = _within(asked, facts.kind, room=facts.room, cap=cap, shrink=shrink)
    if needed is None:
        return None
    placement = Placement(facts.host, facts.device, (facts.device,), needed, needed if shrink else cap)
    return _Fit(placement, left=facts.room - needed, busy=facts.busy)


def _within(asked: Asked, kind: str, *, room: int, cap: int, shrink: bool, more: int = 0) -> int | None:
    """What the model takes there; None if that is too much. A cap that was asked for is kept by a smaller KV cache."""
    needed, least = asked.needs(kind) + more, (asked.least or asked.needs)(kind) + more
    if cap and least <= cap:
        needed = min(needed, cap)
    if shrink and least <= room:
        needed = min(needed, room)
    return needed if needed <= min(room, cap or room) else None


def _split(asked: Asked, facts: list[DeviceFacts]) -> Placement | None:
    """Over as few GPUs of one host as will do."""
    best: Placement | None = None
    for host in sorted({item.host for item in facts if item.kind == "cuda"}):
        roomy = sorted((item for item in facts if item.host == host), key=lambda item: (-item.room, item.device))
        for count in range(2, len(roomy) + 1):
            placement = _over(asked, roomy[:count])
            if placement is not None:
                if best is None or len(placement.devices) < len(best.devices):
                    best = placement
                break
    return best


def _split_as_asked(asked: Asked, candidates: list[DeviceFacts]) -> Placement:
    hosts = {facts.host for facts in candidates}
    for host in sorted(hosts):
        of_host = [facts for facts in candidates if facts.host == host]
        found = [next((f for f in of_host if name in {f.device, f.name}), None) for name in asked.devices]
        wanted = [facts for facts in found if facts is not None]
        if len(wanted) < len(asked.devices):
            continue
        if len({facts.kind for facts in wanted}) > 1:
            continue
        for shrink in (False, True):
            if (placement := _over(asked, wanted, shrink=shrink)) is not None:
                return placement
        raise _too_full(asked, wanted, together=True)
    raise BackendUnavailable(
        "A model can be split over devices of one kind on one host only.", details={"devices": list(asked.devices)}
    )


def _over(asked: Asked, facts: Sequence[DeviceFacts], *, shrink: bool = False) -> Placement | None:
    distinct = list({item.name: item for item in facts}.values())
    caps = [_cap(asked, item) for item in distinct]
    needed = _within(
        asked,
        facts[0].kind,
        room=sum(min(item.room, cap or item.room) for item, cap in zip(distinct, caps, strict=True)),
        cap=sum(caps),
        shrink=shrink,
        more=SPLIT_OVERHEAD_BYTES * (len(distinct) - 1) if asked.needs(facts[0].kind) else 0,
    )
    if needed is None:
        return None
    devices = tuple(item.device for item in facts)
    return Placement(facts[0].host, facts[0].device, devices, needed, needed if shrink else sum(caps))


def _making_room(asked: Asked, facts: DeviceFacts, *, in_use: bool) -> _Fit | None:
    """Where it fits once what leaves has left, and the least recently used models are unloaded, no more than it takes.

    `in_use`: count on models that are busy as well; whether they come to an end in time, the worker will see.
    """
    going = [held for held in facts.held if asked.may_evict and (held.may_go or (in_use and held.busy))]
    going = [held for held in going if not held.pinned and not held.leaving]
    going.sort(key=lambda held: (held.busy, -held.idle_seconds))
    left = sum(held.size for held in facts.held if held.leaving)
    for shrink in (False, True):
        for count in range(len(going) + 1):
            evicts = going[:count]
            freed = left + sum(held.size for held in evicts)
            room = replace(facts, free_bytes=min(facts.total_bytes, facts.free_bytes + freed))
            fit = _whole(asked, room, shrink=shrink)
            if fit is not None:
                placement = replace(fit.placement, evicts=tuple(held.model_id for held in evicts))
                return _Fit(placement, fit.left, cost=(len(evicts), -evicts[0].idle_seconds if evicts else 0.0))
    return None


def _cap(asked: Asked, facts: DeviceFacts) -> int:
    return min(asked.max_memory.of(facts.total_bytes), facts.total_bytes) if asked.max_memory else 0


def _used(facts: DeviceFacts, chosen: Iterable[Placement]) -> bool:
    return any(facts.host == item.host and facts.device in item.devices for item in chosen)


def _too_full(asked: Asked, facts: Sequence[DeviceFacts], *, together: bool = False) -> ApiError:
    """Why nothing fits, told of the device that comes nearest to it."""
    least = asked.least or asked.needs
    roomiest = max(facts, key=lambda item: (item.room - least(item.kind), item.name))
    needed = least(roomiest.kind)
    free = sum(item.room for item in facts) if together else roomiest.room
    cap = sum(_cap(asked, item) for item in facts) if together else _cap(asked, roomiest)
    limited = bool(cap) and needed > cap
    could = [
        {"model": held.model_id, "memory": format_bytes(held.size), "memory_bytes": held.size}
        for item in (facts if together else [roomiest])
        for held in sorted(item.held, key=lambda held: -held.idle_seconds)
        if held.may_go
    ]
    details = {
        "model": asked.model_id,
        "device": roomiest.name,
        "needed": format_bytes(needed),
        "needed_bytes": needed,
        "free": format_bytes(free),
        "free_bytes": free,
        "could_be_unloaded": could,
    }
    if limited:
        details |= {"max_memory": format_bytes(cap), "max_memory_bytes": cap}
        return InsufficientMemory(
            f"The model needs {format_bytes(needed)}, and max_memory allows it {format_bytes(cap)}.", details=details
        )
    total = sum(item.total_bytes for item in facts) if together else max(item.total_bytes for item in facts)
    hint = f" {_NEVER_FITS_HINT}" if needed > total else " Unload other models first." if could else ""
    return InsufficientMemory(
        f"The model needs {format_bytes(needed)}, and {format_bytes(free)} are free.{hint}", details=details
    )
