"""How a load divides the memory of its devices: what is planned before it, and what is left for the KV cache after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from engine.memory import LEAST_TOKENS, DeviceKind, Dimensions, MemoryPlan, activation_bytes, kv_bytes_per_token, plan
from engine.messages import EngineConfig
from engine.runtime import device_memory
from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.runner import ModelLoadError
from engine.runtime.split import Part, split_layers


@dataclass(frozen=True)
class Budget:
    """The memory of one load. Sizes in bytes."""

    config: EngineConfig
    model: Dimensions
    devices: tuple[torch.device, ...]
    precision: str
    context_length: int

    @property
    def limit(self) -> int:
        """What the process may take in all, on all of its devices."""
        available = sum(device_memory.taken(device) + device_memory.free(device) for device in set(self.devices))
        return min(available, self.config.max_memory_bytes or available)

    def plan(self) -> MemoryPlan:
        """Raises ModelLoadError for what can't fit."""
        limit = self.limit
        planned = plan(
            self.model,
            precision=self.precision,
            kind=self._kind,
            context_length=self.context_length,
            max_sequences=self.config.max_sequences,
            kv_cache_bytes=self.config.kv_cache_bytes,
            max_memory_bytes=limit,
            prefill_chunk=self.config.prefill_chunk,
        )
        if planned.kv_tokens < self._least_tokens:
            raise self._too_little(planned.weights + planned.overhead, limit)
        return planned

    def split(self, planned: MemoryPlan) -> tuple[Part, ...]:
        """Which layers go where. Raises ModelLoadError for more devices than layers."""
        names = [str(device) for device in self.devices]
        embedding = self.model.vocabulary * self.model.hidden * (4 if self.precision == "fp32" else 2)
        layers = max(self.model.layers, planned.weights - 2 * embedding + planned.kv_cache)
        try:
            return split_layers(
                names,
                [device_memory.free(device) for device in self.devices],
                layers=self.model.layers,
                layer_bytes=layers // self.model.layers,
                first_bytes=embedding,
                last_bytes=embedding,
            )
        except ValueError as error:
            raise ModelLoadError("MODEL_LOAD_FAILED", str(error)) from error

    def cache_blocks(self, planned: MemoryPlan, parts: Sequence[Part]) -> int:
        """Blocks of the KV cache: as many as planned, or what is left beside the weights as they really are.

        Raises ModelLoadError.
        """
        devices = set(self.devices)
        working = activation_bytes(
            self.model,
            self.precision,
            self._kind,
            rows=self.config.prefill_chunk,
            max_sequences=self.config.max_sequences,
            context_length=self.context_length,
        )
        limit = self.limit
        taken = sum(device_memory.taken(device) + working for device in devices)
        per_block = BLOCK_SIZE * self._bytes_per_token
        blocks = min(planned.kv_tokens // BLOCK_SIZE, max(0, limit - taken) // per_block)
        for device in devices:
            layers = sum(part.count for part in parts if part.device == str(device))
            room = max(0, device_memory.free(device) - working)
            blocks = min(blocks, room * self.model.layers // (per_block * layers))
        if blocks * BLOCK_SIZE < self._least_tokens:
            raise self._too_little(taken, limit)
        return blocks

    @property
    def _kind(self) -> DeviceKind:
        return cast("DeviceKind", self.devices[0].type)

    @property
    def _bytes_per_token(self) -> int:
        return kv_bytes_per_token(self.model, self.precision)

    @property
    def _least_tokens(self) -> int:
        """A context that was asked for is kept whole; the model's own may be cut."""
        return self.context_length if self.config.context_length else min(self.context_length, LEAST_TOKENS)

    def _too_little(self, beside_cache: int, limit: int) -> ModelLoadError:
        return ModelLoadError.out_of_memory(beside_cache + self._least_tokens * self._bytes_per_token, limit)
