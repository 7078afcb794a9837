"""How much memory a model will need, before anything of it is loaded."""

from dataclasses import dataclass
from typing import cast

import msgspec
from django.conf import settings

from engine.memory import DeviceKind
from models_mgmt.inspection import ModelShape
from models_mgmt.memory import MemoryEstimate, estimate
from models_mgmt.models import Model

_KNOWN_LATER = 0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model takes on a device, by the device's kind (`cpu`, `cuda`, `mps`), in bytes.

    0 where nobody can tell, since its files have not been seen yet.
    """

    model: Model
    quantization: str
    context_length: int | None = None

    def wanted(self, kind: str) -> int:
        """With a KV cache for all the sequences that the settings let run at once."""
        estimated = self.estimate(kind)
        return estimated.total if estimated else _KNOWN_LATER

    def least(self, kind: str) -> int:
        """With the smallest KV cache that is of any use."""
        estimated = self.estimate(kind)
        return estimated.least if estimated else _KNOWN_LATER

    def estimate(self, kind: str) -> MemoryEstimate | None:
        """None while nobody can tell."""
        if not self.model.shape:
            return None
        return estimate(
            msgspec.convert(self.model.shape, ModelShape),
            quantization=self.quantization,
            device_kind=cast("DeviceKind", kind),
            context_length=self.context_length,
            max_sequences=settings.ENGINE_MAX_SEQUENCES,
            kv_cache_bytes=settings.ENGINE_KV_CACHE,
            prefill_chunk=settings.ENGINE_PREFILL_CHUNK,
        )
