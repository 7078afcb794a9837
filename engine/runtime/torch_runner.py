"""A real model: loads it, warms it up, and runs the loop's steps."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from engine.messages import EngineConfig
from engine.runtime import device_memory
from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.hints import hinted_quantization
from engine.runtime.kernels.batch import pack
from engine.runtime.linears import PackedLinear
from engine.runtime.loading import Loader
from engine.runtime.model_files import read_configuration, read_tokenizer
from engine.runtime.pooling import pool
from engine.runtime.runner import ModelFacts, ModelLoadError, Outcome
from engine.runtime.sampler import sample
from engine.runtime.scheduler import Chunk
from engine.runtime.unasked import decodes, reading

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# A first prompt of so many multiplications at most: a second or two of a CPU; larger models warm up on a shorter one.
_WARM_UP_WORK = 1.5e11


class TorchRunner:
    """`Runner` over torch: CPU, CUDA and MPS."""

    def __init__(self, config: EngineConfig, progress: Callable[[float, str], None]) -> None:
        """Load the model. Raises ModelLoadError."""
        disable_progress_bar()
        if config.threads:
            torch.set_num_threads(config.threads)
        devices = tuple(_device(name) for name in config.devices or (config.device,))
        if len({device.type for device in devices}) > 1:
            raise ModelLoadError("MODEL_LOAD_FAILED", "a model can be split over devices of one kind only")
        self._device = devices[0]
        progress(0.0, "read")
        model_config = read_configuration(config)
        text_config: Any = model_config.get_text_config()
        precision = _precision(config.quantization, self._device, Path(config.model_path))
        self.tokenizer = read_tokenizer(config, model_config)
        progress(0.1, "read")
        model = Loader(
            config,
            model_config,
            devices,
            precision,
            dtype=_activation_dtype(precision, self._device),
            context_length=_context_length(config, text_config),
            progress=progress,
        ).load()
        self._forward = model.forward
        context = min(_context_length(config, text_config), model.blocks * BLOCK_SIZE)
        progress(0.9, "warm up")
        self._warm_up(config, model.parameters, model.blocks, context)
        progress(1.0, "warm up")
        taken = {str(device): device_memory.taken(device) for device in set(devices)}
        self.facts = ModelFacts(
            backend=self._device.type,
            architecture=(model_config.architectures or [model_config.model_type])[0],
            parameters=model.parameters,
            vocab_size=text_config.vocab_size,
            context_length=context,
            quantization=precision,
            memory_bytes=sum(taken.values()),
            weight_bytes=model.weight_bytes,
            kv_cache_bytes=model.kv_cache_bytes,
            kv_blocks=model.blocks,
            devices=tuple(part.device for part in model.parts),
            device_bytes=taken,
        )

    def step(self, chunks: list[Chunk]) -> list[Outcome | None]:
        with torch.inference_mode():
            result = self._forward(pack(chunks, self._device))
            sampling = [chunk.sequence for chunk in chunks if chunk.samples]
            tokens = iter(sample(result.logits, sampling) if sampling else ())
            vectors = pool(result.hidden, chunks)
        return [next(tokens) if chunk.samples else vectors.get(chunk.sequence.request_id) for chunk in chunks]

    def logits(self, tokens: list[int], *, first: int = 0, rows: int = 256) -> torch.Tensor:
        """The scores of the next token after each of tokens[first:], float32 [tokens, vocabulary], `rows` at a time.

        For measuring a loaded model that runs nothing else: it writes over the first blocks of the KV cache. Those
        before `first` must have been read by the call before.
        """
        found = []
        with torch.inference_mode():
            for start in range(first, len(tokens), rows):
                batch = pack(reading(tokens, start, min(rows, len(tokens) - start)), self._device)
                every = torch.arange(batch.rows, device=self._device)
                found.append(self._forward(replace(batch, samples=every)).logits.float().cpu())
        return torch.cat(found)

    def _warm_up(self, config: EngineConfig, parameters: int, blocks: int, context: int) -> None:
        """Run the largest steps once: kernels are chosen and working memory is taken now, not at the first request."""
        rows = min(config.prefill_chunk, context)
        if self._device.type == "cpu":
            rows = min(rows, max(BLOCK_SIZE, int(_WARM_UP_WORK / (2 * max(1, parameters)))))
        self.step(reading([0] * rows))
        self.step(decodes(min(config.max_sequences, blocks)))


def _device(name: str) -> torch.device:
    """Raises ModelLoadError for a device that isn't there."""
    device = torch.device(name)
    missing = (
        device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count())
    ) or (device.type == "mps" and not torch.backends.mps.is_available())
    if missing:
        raise ModelLoadError("BACKEND_UNAVAILABLE", f"this host has no {name}")
    return device


def _precision(wanted: str, device: torch.device, folder: Path) -> str:
    """`auto`: bf16 where the hardware multiplies it; on such CPUs 4 bits for what came in 4, lossless and faster."""
    if wanted != "auto":
        return wanted
    if device.type == "mps":
        return "fp16"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if not PackedLinear.available(torch.bfloat16):
        return "fp32"
    return hinted_quantization(folder) or "bf16"


def _activation_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Quantised weights are multiplied with bf16 activations, where the device has them."""
    if precision in _DTYPES:
        return _DTYPES[precision]
    if device.type == "mps" or (device.type == "cuda" and not torch.cuda.is_bf16_supported()):
        return torch.float16
    return torch.bfloat16


def _context_length(config: EngineConfig, model_config: Any) -> int:
    """The asked-for length, but no more than the model's, in tokens. Raises ModelLoadError if neither is known."""
    lengths = [config.context_length, getattr(model_config, "max_position_embeddings", None)]
    known = [length for length in lengths if length]
    if not known:
        raise ModelLoadError("MODEL_LOAD_FAILED", "the model doesn't tell its context length; give one to load it with")
    return min(known)
