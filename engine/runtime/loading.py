"""From a model's folder to something that runs: read the weights, lay them out, make the KV cache."""

import logging
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from engine.memory import Dimensions
from engine.messages import EngineConfig
from engine.runtime import device_memory
from engine.runtime.budget import Budget
from engine.runtime.general import GeneralModel
from engine.runtime.kernels.batch import StepBatch, StepResult
from engine.runtime.kernels.interface import AttentionShape, Kernels
from engine.runtime.kernels.native import NativeKernels, NativeUnavailable, load_library
from engine.runtime.kernels.portable import PortableKernels
from engine.runtime.linears import refuse_precision
from engine.runtime.llama import LlamaModel, is_llama_shaped, rotary_tables
from engine.runtime.runner import ModelLoadError
from engine.runtime.split import Part
from engine.runtime.weights import WeightFiles, refuse_missing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """`forward` takes a batch on the first of `parts`' devices."""

    forward: Callable[[StepBatch], StepResult]
    parts: tuple[Part, ...]
    parameters: int
    weight_bytes: int
    kv_cache_bytes: int
    blocks: int


@dataclass(frozen=True)
class Loader:
    """One load."""

    config: EngineConfig
    model_config: PretrainedConfig
    devices: tuple[torch.device, ...]
    precision: str
    dtype: torch.dtype
    context_length: int
    progress: Callable[[float, str], None]

    def load(self) -> LoadedModel:
        """Raises ModelLoadError."""
        try:
            with torch.inference_mode(), device_memory.returned_at_once():
                if is_llama_shaped(self._text, self.context_length):
                    return self._load_fast()
                return self._load_general()
        except (torch.OutOfMemoryError, MemoryError) as error:
            logger.exception("memory ran out")
            raise ModelLoadError("INSUFFICIENT_MEMORY", "memory ran out while the model was loaded") from error

    def _load_fast(self) -> LoadedModel:
        with torch.device("meta"):
            empty: Any = AutoModelForCausalLM.from_config(self.model_config)
        tied = set(getattr(empty, "all_tied_weights_keys", None) or ())
        dimensions = self._dimensions(empty, fast=True, tied=bool(tied))
        for device in self.devices:
            refuse_precision(self.precision, device, (inputs for _, inputs in dimensions.matrices))
        budget = self._budget(dimensions)
        with closing(WeightFiles(Path(self.config.model_path), allow_pickle=self.config.allow_pickle)) as weights:
            weights.check({name: tensor.shape for name, tensor in empty.state_dict().items() if name not in tied})
            planned = budget.plan()
            parts = budget.split(planned)
            stage = "quantise" if self.precision in ("int8", "int4") else "read"
            model = LlamaModel(
                weights,
                parts,
                epsilon=float(self._text.rms_norm_eps),
                tied=bool(tied),
                dtype=self.dtype,
                precision=self.precision,
                twin=planned.twin,
                progress=lambda share: self.progress(0.1 + 0.75 * share, stage),
            )
        cosine, sine = rotary_tables(type(empty.model.rotary_emb)(self._text), self.context_length)
        blocks = budget.cache_blocks(planned, parts)
        shapes = [self._attention_shape(dimensions, part) for part in parts]
        kernels = [_kernels(shape, blocks, cosine, sine) for shape in shapes]
        return LoadedModel(
            forward=lambda batch: model.forward(batch, kernels),
            parts=parts,
            parameters=dimensions.parameters,
            weight_bytes=model.bytes,
            kv_cache_bytes=sum(kernel.cache_bytes for kernel in kernels),
            blocks=blocks,
        )

    def _load_general(self) -> LoadedModel:
        kind = self._text.model_type
        if self.precision in ("int4", "int8"):
            raise ModelLoadError("MODEL_LOAD_FAILED", f"{kind} models can't be quantised here; use fp32, bf16 or fp16")
        if len(self.devices) > 1:
            raise ModelLoadError("MODEL_LOAD_FAILED", f"{kind} models can't be split over several devices")
        device = self.devices[0]
        refuse_precision(self.precision, device, ())
        with torch.device("meta"):
            empty: Any = AutoModelForCausalLM.from_config(
                self.model_config, trust_remote_code=self.config.trust_remote_code
            )
        dimensions = self._dimensions(empty, fast=False, tied=False)
        planned = self._budget(dimensions).plan()
        module = self._read_module(device)
        self.progress(0.85, "read")
        parts = (Part(str(device), 0, dimensions.layers),)
        blocks = self._budget(dimensions).cache_blocks(planned, parts)
        model = GeneralModel(module, self._attention_shape(dimensions, parts[0]), blocks)
        return LoadedModel(model.forward, parts, dimensions.parameters, model.bytes, model.cache_bytes, blocks)

    def _read_module(self, device: torch.device) -> Any:
        """The transformers module with its weights on the device. Raises ModelLoadError."""
        WeightFiles(Path(self.config.model_path), allow_pickle=self.config.allow_pickle).close()
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            self.config.model_path,
            config=self.model_config,
            dtype=self.dtype,
            local_files_only=True,
            use_safetensors=None if self.config.allow_pickle else True,
            trust_remote_code=self.config.trust_remote_code,
            output_loading_info=True,
        )
        module, found = loaded
        refuse_missing(found["missing_keys"])
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = tensor.data.to(device, copy=True)  # nothing of the files stays mapped
        return module.eval()

    @property
    def _text(self) -> Any:
        return self.model_config.get_text_config()

    def _budget(self, dimensions: Dimensions) -> Budget:
        return Budget(self.config, dimensions, self.devices, self.precision, self.context_length)

    def _dimensions(self, module: Any, *, fast: bool, tied: bool) -> Dimensions:
        config = self._text
        heads = config.num_attention_heads
        return Dimensions(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
            tied=tied,
            fast=fast,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
        )

    def _attention_shape(self, dimensions: Dimensions, part: Part) -> AttentionShape:
        return AttentionShape(
            layers=part.count,
            heads=dimensions.heads,
            kv_heads=dimensions.kv_heads,
            dim=dimensions.head_dim,
            dtype=self.dtype,
            device=torch.device(part.device),
        )


def _kernels(shape: AttentionShape, blocks: int, cosine: torch.Tensor, sine: torch.Tensor) -> Kernels:
    if shape.device.type == "cpu" and os.environ.get("LLAMA_GPU_NATIVE_KERNELS", "1") != "0":
        try:
            return NativeKernels(shape, blocks, cosine, sine, load_library())
        except NativeUnavailable as reason:
            logger.warning("the CPU kernels are not used, so this will be slower: %s", reason)
    return PortableKernels(shape, blocks, cosine.to(shape.device), sine.to(shape.device))
