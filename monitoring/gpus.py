"""The GPUs of this host, as NVML tells of them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import pynvml

logger = logging.getLogger(__name__)

Figure = float | None
_MIB = 1024**2
_LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
_DEAD_SESSION = (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_UNKNOWN)


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as of now. `id` is NVML's number on its host; None stands for what the GPU doesn't tell.

    Memory in MiB, utilization in percent, temperature in °C, power in W. A GPU that is `lost` has fallen off the bus
    or needs a reset; of it, only what was known before is told.
    """

    id: int
    status: Literal["ok", "lost"] = "ok"
    name: str | None = None
    uuid: str | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    memory_free: int | None = None
    utilization: int | None = None
    temperature: int | None = None
    power_usage: int | None = None
    power_limit: int | None = None

    @property
    def memory_percent(self) -> float | None:
        """The share of its memory that is in use, in percent."""
        if not self.memory_total or self.memory_used is None:
            return None
        return round(100 * self.memory_used / self.memory_total, 1)


class GpuMinute(msgspec.Struct, frozen=True, array_like=True):
    """The means of a host's GPUs over a minute: their ids, and for each of them utilization and memory in percent."""

    ids: list[int] = []
    utilization: list[Figure] = []
    memory: list[Figure] = []

    def aligned(self, ids: list[int]) -> "GpuMinute":
        """With exactly these GPUs; those that it doesn't know have no figures."""
        if self.ids == ids:
            return self
        utilization, memory = (
            dict(zip(self.ids, self.utilization, strict=True)),
            dict(zip(self.ids, self.memory, strict=True)),
        )
        return GpuMinute(ids, [utilization.get(number) for number in ids], [memory.get(number) for number in ids])

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


def mean_minute(readings: Sequence[Sequence[Gpu]]) -> GpuMinute:
    """The means of several readings of a host."""
    by_id: dict[int, list[Gpu]] = {}
    for reading in readings:
        for gpu in reading:
            by_id.setdefault(gpu.id, []).append(gpu)
    gpus = [by_id[number] for number in sorted(by_id)]
    return GpuMinute(
        ids=sorted(by_id),
        utilization=[mean_of([gpu.utilization for gpu in read]) for read in gpus],
        memory=[mean_of([gpu.memory_percent for gpu in read]) for read in gpus],
    )


def mean_of(figures: Sequence[Figure]) -> Figure:
    """Of those that are told, with one digit; None if none is."""
    told = [figure for figure in figures if figure is not None]
    return round(sum(told) / len(told), 1) if told else None


class GpuReader:
    """Reads all GPUs of this host, also those that no worker serves. For one thread.

    It holds one NVML session for its life, begun at the first reading and begun anew after the driver was reloaded.
    """

    def __init__(self) -> None:
        self._open = False
        self._complained: set[str] = set()
        self._names: dict[int, tuple[str | None, str | None]] = {}

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU by its number; none where there is no NVML, or no GPU."""
        try:
            if not self._open:
                pynvml.nvmlInit()
                self._open = True
            count = pynvml.nvmlDeviceGetCount()
            driver, cuda = _told(pynvml.nvmlSystemGetDriverVersion), _told(pynvml.nvmlSystemGetCudaDriverVersion_v2)
        except pynvml.NVMLError as error:
            self._complain(error)
            self.close()
            return ()
        versions = {"driver_version": driver, "cuda_version": None if cuda is None else _version(cuda)}
        return tuple(self._gpu(index, versions) for index in range(count))

    def close(self) -> None:
        """End the session; the next reading begins another."""
        if self._open:
            self._open = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError as error:
                logger.debug("NVML was not shut down: %s", error)

    def _gpu(self, index: int, versions: dict[str, Any]) -> Gpu:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name, uuid = _told(pynvml.nvmlDeviceGetName, handle), _told(pynvml.nvmlDeviceGetUUID, handle)
            self._names[index] = name, uuid
            figures = _figures(handle)
        except pynvml.NVMLError as error:
            self._complain(error, index)
            name, uuid = self._names.get(index, (None, None))
            return Gpu(id=index, status="lost", name=name, uuid=uuid, **versions)
        return Gpu(id=index, name=name, uuid=uuid, **versions, **figures)

    def _complain(self, error: pynvml.NVMLError, index: int | None = None) -> None:
        """Once for each trouble; no NVML at all is no trouble."""
        if error.value in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return
        text = f"{'NVML' if index is None else f'GPU {index}'} can't be read: {error}"
        if text not in self._complained:
            self._complained.add(text)
            logger.warning("%s", text)


def _figures(handle: Any) -> dict[str, Any]:
    """What a GPU tells of itself; a question that it refuses is answered with None. Raises NVMLError for a lost GPU."""
    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return {
        "memory_total": None if memory is None else memory.total // _MIB,
        "memory_used": None if memory is None else memory.used // _MIB,
        "memory_free": None if memory is None else memory.free // _MIB,
        "utilization": None if rates is None else rates.gpu,
        "temperature": _told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "power_usage": _watts(_told(pynvml.nvmlDeviceGetPowerUsage, handle)),
        "power_limit": _watts(_told(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
    }


def _told(question: Callable[..., Any], *arguments: Any) -> Any:
    """NVML's answer, or None where this GPU or driver has none. Raises NVMLError when the GPU or the driver is gone."""
    try:
        return question(*arguments)
    except pynvml.NVMLError as error:
        if error.value in (*_LOST, *_DEAD_SESSION):
            raise
        return None


def _watts(milliwatts: int | None) -> int | None:
    return None if milliwatts is None else round(milliwatts / 1000)


def _version(number: int) -> str:
    """12020 is 12.2."""
    return f"{number // 1000}.{number % 1000 // 10}"
