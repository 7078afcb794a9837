"""A real model: loads it, sizes its KV cache, and runs the loop's steps through the fast or the general path."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils.logging import disable_progress_bar

from engine.messages import EngineConfig
from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.general import GeneralModel
from engine.runtime.hints import hinted_quantization
from engine.runtime.kernels.batch import StepBatch, pack
from engine.runtime.kernels.interface import AttentionShape, Kernels
from engine.runtime.kernels.native import NativeKernels, NativeUnavailable, load_library
from engine.runtime.kernels.portable import PortableKernels
from engine.runtime.linears import PackedLinear
from engine.runtime.llama import LlamaModel, is_llama_shaped, rotary_tables
from engine.runtime.runner import ModelFacts, ModelLoadError, PromptTokenizer, RequestRefused
from engine.runtime.sampler import sample
from engine.runtime.scheduler import Chunk
from engine.runtime.tokenizer import HuggingFaceTokenizer

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_CACHE_SHARE = 0.4  # of the memory that is free once the weights are loaded
_GPU_CACHE_SHARE = 0.9
_TWIN_LIMIT = 2 * 1024**3  # bytes of dense weights kept beside 4-bit ones on the CPU, at most


class TorchRunner:
    """`Runner` over torch: CPU, CUDA and MPS."""

    def __init__(self, config: EngineConfig, progress: Callable[[float, str], None]) -> None:
        """Load the model. Raises ModelLoadError."""
        disable_progress_bar()
        if config.threads:
            torch.set_num_threads(config.threads)
        before = psutil.Process().memory_info().rss
        self._device = _device(config.device)
        folder = Path(config.model_path)
        if not (folder / "config.json").exists():
            raise ModelLoadError("MODEL_LOAD_FAILED", f"there is no config.json in {folder.name}")
        progress(0.05, "reading the configuration")
        model_config = AutoConfig.from_pretrained(folder, local_files_only=True)
        text_config: Any = model_config.get_text_config()
        quantization = _quantization(config.quantization, self._device, folder)
        dtype = _DTYPES.get(quantization) or (torch.float16 if self._device.type == "mps" else torch.bfloat16)
        context = _context_length(config, text_config)
        self.tokenizer: PromptTokenizer = HuggingFaceTokenizer(folder, model_config)
        progress(0.2, "reading the weights")
        module = AutoModelForCausalLM.from_pretrained(
            folder, config=model_config, dtype=dtype, local_files_only=True, use_safetensors=True
        ).eval()
        parameters = sum(parameter.numel() for parameter in module.parameters())
        shape = _attention_shape(text_config, dtype, self._device)
        with torch.inference_mode():
            if is_llama_shaped(text_config, context):
                self._load_fast(config, module, shape, context, quantization, progress)
            else:
                self._load_general(config, module, shape, context, quantization)
        del module
        memory = torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else _grown(before)
        context = min(context, self._blocks * BLOCK_SIZE)
        self.facts = ModelFacts(
            backend=self._device.type,
            architecture=(model_config.architectures or [type(self._model).__name__])[0],
            parameters=parameters,
            vocab_size=text_config.vocab_size,
            context_length=context,
            quantization=quantization,
            memory_bytes=memory,
            kv_cache_bytes=self._blocks * BLOCK_SIZE * shape.bytes_per_token,
            kv_blocks=self._blocks,
        )

    def step(self, chunks: list[Chunk]) -> list[int | RequestRefused | None]:
        with torch.inference_mode():
            logits = self._forward(pack(chunks, self._device))
            sampling = [chunk.sequence for chunk in chunks if chunk.samples]
            if not sampling:
                return [None] * len(chunks)
            tokens = iter(sample(logits, sampling))
        return [next(tokens) if chunk.samples else None for chunk in chunks]

    def _load_fast(
        self,
        config: EngineConfig,
        module: Any,
        shape: AttentionShape,
        context: int,
        quantization: str,
        progress: Callable[[float, str], None],
    ) -> None:
        dense = sum(parameter.numel() for parameter in module.parameters()) * shape.dtype.itemsize
        twin = quantization == "int4" and dense <= _TWIN_LIMIT
        cosine, sine = rotary_tables(module, context, self._device)
        model = LlamaModel(
            module,
            dtype=shape.dtype,
            device=self._device,
            quantization=quantization,
            twin=twin,
            progress=lambda share: progress(0.4 + 0.5 * share, "preparing the layers"),
        )
        self._model: LlamaModel | GeneralModel = model
        self._blocks = self._cache_blocks(config, shape, context)
        kernels = _kernels(shape, self._blocks, cosine, sine)
        self._forward: Callable[[StepBatch], torch.Tensor] = lambda batch: model.forward(batch, kernels)

    def _load_general(
        self, config: EngineConfig, module: Any, shape: AttentionShape, context: int, quantization: str
    ) -> None:
        if quantization in ("int4", "int8"):
            raise ModelLoadError(
                "MODEL_LOAD_FAILED",
                f"{module.config.model_type} models can't be quantised here; use fp32, bf16 or fp16",
            )
        module.to(self._device)
        self._blocks = self._cache_blocks(config, shape, context)
        model = GeneralModel(module, shape, self._blocks)
        self._model = model
        self._forward = model.forward

    def _cache_blocks(self, config: EngineConfig, shape: AttentionShape, context: int) -> int:
        """As many blocks as the memory allows, but no more than all sequences can fill."""
        per_block = BLOCK_SIZE * shape.bytes_per_token
        budget = config.kv_cache_bytes or _free_memory(self._device)
        wanted = config.max_sequences * -(-context // BLOCK_SIZE)
        blocks = min(wanted, budget // per_block)
        if blocks * BLOCK_SIZE < min(context, 256):
            raise ModelLoadError(
                "INSUFFICIENT_MEMORY", f"{budget >> 20} MiB are left for the KV cache; that is less than 256 tokens"
            )
        return int(blocks)


def _kernels(shape: AttentionShape, blocks: int, cosine: torch.Tensor, sine: torch.Tensor) -> Kernels:
    if shape.device.type == "cpu" and os.environ.get("LLAMA_GPU_NATIVE_KERNELS", "1") != "0":
        try:
            return NativeKernels(shape, blocks, cosine, sine, load_library())
        except NativeUnavailable as reason:
            logger.warning("the CPU kernels are not used, so this will be slower: %s", reason)
    return PortableKernels(shape, blocks, cosine, sine)


def _device(name: str) -> torch.device:
    """Raises ModelLoadError for a device that isn't there."""
    device = torch.device(name)
    missing = (
        device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count())
    ) or (device.type == "mps" and not torch.backends.mps.is_available())
    if missing:
        raise ModelLoadError("BACKEND_UNAVAILABLE", f"this host has no {name}")
    return device


def _quantization(wanted: str, device: torch.device, folder: Path) -> str:
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


def _context_length(config: EngineConfig, model_config: Any) -> int:
    """The asked-for length, but no more than the model's, in tokens. Raises ModelLoadError if neither is known."""
    lengths = [config.context_length, getattr(model_config, "max_position_embeddings", None)]
    known = [length for length in lengths if length]
    if not known:
        raise ModelLoadError("MODEL_LOAD_FAILED", "the model doesn't tell its context length; give one to load it with")
    return min(known)


def _attention_shape(config: PretrainedConfig | Any, dtype: torch.dtype, device: torch.device) -> AttentionShape:
    heads = config.num_attention_heads
    return AttentionShape(
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=dtype,
        device=device,
    )


def _free_memory(device: torch.device) -> int:
    """What the KV cache may take, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _GPU_CACHE_SHARE)
    return int(min(psutil.virtual_memory().available, _container_memory()) * _CPU_CACHE_SHARE)


def _container_memory() -> float:
    """What a container's limit (cgroup v2) leaves, in bytes; infinite without one."""
    folder = Path("/sys/fs/cgroup")
    try:
        return max(0.0, float((folder / "memory.max").read_text()) - float((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        return float("inf")


def _grown(before: int) -> int:
    return max(0, psutil.Process().memory_info().rss - before)
