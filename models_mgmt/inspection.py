"""What a model is, read from its files without loading it: no torch, no transformers, no weights."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

import msgspec

from models_mgmt.gguf_header import GgufError, GgufHeader, read_gguf_header
from models_mgmt.safetensors_header import SafetensorsError, StoredTensor, read_safetensors_header

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MAX_JSON = 32 * 1024**2
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8", "I32": "int32", "I64": "int64", "BOOL": "bool",
}  # fmt: skip
_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_GGUF_ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM", "gpt2": "GPT2LMHeadModel", "falcon": "FalconForCausalLM",
    "stablelm": "StableLmForCausalLM", "starcoder2": "Starcoder2ForCausalLM", "bloom": "BloomForCausalLM",
    "nemotron": "NemotronForCausalLM",
}  # fmt: skip


class InspectionError(Exception):
    """The files are no model that can be served; the text says why, as a sentence without a path."""


class ModelShape(msgspec.Struct, frozen=True):
    """The facts of a model that its memory, its placement and its record are worked out from.

    `parameters` counts every stored weight, a tied head once. `dtype`: what the weights are stored in (`bfloat16`); of
    a GGUF file, what it is converted to. `weight_bytes`: on disk. `gguf_type`: what most of a GGUF file's layers are
    held in (`Q4_1`), also after its conversion; else empty. `has_pickle`: the only weights are pickles, and
    `parameters` is worked out from their size. `has_remote_code`: the files name Python code of their own.
    """

    architecture: str
    model_type: str
    parameters: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied_embeddings: bool
    context_length: int
    dtype: str
    weight_bytes: int
    gguf_type: str = ""
    has_chat_template: bool = False
    has_remote_code: bool = False
    has_pickle: bool = False


class ModelFiles(Protocol):
    """A model's files, wherever they lie: their sizes in bytes by name, and their bytes. May raise InspectionError."""

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def open(self, name: str) -> BinaryIO: ...


class LocalFiles:
    """The files of a folder, without its subfolders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}

    def open(self, name: str) -> BinaryIO:
        return (self._folder / name).open("rb")


def inspect(path: Path) -> ModelShape:
    """What a folder of safetensors or a GGUF file holds. Raises InspectionError."""
    try:
        if path.is_dir():
            return inspect_files(LocalFiles(path))
        with path.open("rb") as file:
            return inspect_gguf(file, name=path.name, size=path.stat().st_size)
    except OSError as error:
        raise InspectionError(f"{path.name} can't be read: {error.strerror or type(error).__name__}.") from error


def inspect_files(files: ModelFiles) -> ModelShape:
    """What a model of config.json and weights holds. Raises InspectionError."""
    config = _read_json(files, CONFIG)
    if config is None:
        raise InspectionError(f"There is no {CONFIG}; a model's folder has one beside its weights.")
    _refuse_what_cannot_run(config)
    weights = weight_files(files)
    inner = config.get("text_config")
    text: dict[str, Any] = inner if isinstance(inner, dict) else config
    dimensions = _dimensions(text)
    tensors = _stored_tensors(files, weights)
    dtype = _dtype_of(tensors) if tensors else str(config.get("torch_dtype") or config.get("dtype") or "float32")
    weight_bytes = sum(files.sizes[name] for name in weights)
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return ModelShape(
        **dimensions,
        architecture=next(iter(config.get("architectures") or ()), ""),
        model_type=str(config.get("model_type", "")),
        parameters=parameters or weight_bytes // _BYTES.get(dtype, 4),
        tied_embeddings=_is_tied(config, text, tensors),
        dtype=dtype,
        weight_bytes=weight_bytes,
        gguf_type=_converted_from(files),
        has_chat_template=_has_chat_template(files),
        has_remote_code="auto_map" in config,
        has_pickle=weights[0].endswith(PICKLES),
    )


def weight_files(files: ModelFiles) -> list[str]:
    """The files that the weights lie in: safetensors, or pickles where there are no others. Raises InspectionError."""
    index = _read_json(files, INDEX)
    if index is not None:
        return _indexed(files, index)
    if SINGLE in files.sizes:
        return [SINGLE]
    pickles = sorted(name for name in files.sizes if name.endswith(PICKLES) and "training_args" not in name)
    if pickles:
        return pickles
    if any(name.endswith(".gguf") for name in files.sizes):
        raise InspectionError("The weights are GGUF files; name one of them instead of the folder.")
    raise InspectionError(f"There are no weights: neither {SINGLE} nor {INDEX}.")


def inspect_gguf(file: BinaryIO, *, name: str, size: int) -> ModelShape:
    """What a GGUF file holds, from its header. Raises InspectionError."""
    try:
        header = read_gguf_header(file)
    except GgufError as error:
        raise InspectionError(f"{name} can't be read as a GGUF file: {error}.") from error
    if header.size > size:
        raise InspectionError(f"{name} is cut short: it has {size:,} bytes and needs {header.size:,}.")
    parts = header.metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise InspectionError(
            f"{name} is one of the {parts} parts of a model; put them together first, with llama.cpp's "
            "llama-gguf-split --merge, and name the result."
        )
    kind = str(header.metadata.get("general.architecture", ""))
    architecture = _GGUF_ARCHITECTURES.get(kind)
    if architecture is None:
        known = ", ".join(sorted(_GGUF_ARCHITECTURES))
        raise InspectionError(f"{name} holds a model of the kind {kind[:50]!r}; GGUF files can be read of: {known}.")
    return _gguf_shape(header, kind, architecture, size)


def is_native(model_type: str) -> bool:
    """Whether the installed transformers has code of its own for this kind of model. Imports nothing of it."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None or not model_type.replace("-", "_").replace("_", "").isalnum():
        return False
    return (Path(spec.origin).parent / "models" / model_type.replace("-", "_")).is_dir()


# ------------------------------------------------------------ folders


def _refuse_what_cannot_run(config: dict[str, Any]) -> None:
    architecture = str(next(iter(config.get("architectures") or ()), ""))
    generates = architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    if config.get("is_encoder_decoder") or (architecture and not generates and "auto_map" not in config):
        raise InspectionError(f"{architecture or 'This'} is no model that continues text, so it can't be served.")
    method = config.get("quantization_config")
    if isinstance(method, dict):
        name = str(method.get("quant_method", "an unknown method"))[:50]
        raise InspectionError(
            f"The weights are stored quantised by {name}, which can't be read; take the original weights and "
            "choose a quantization when loading them."
        )


def _dimensions(config: dict[str, Any]) -> dict[str, int]:
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    heads = _number(config, "num_attention_heads", "n_head", "num_heads")
    return {
        "vocab_size": _number(config, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": _number(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
        "layers": _number(config, "num_hidden_layers", "n_layer", "num_layers"),
        "heads": heads,
        "kv_heads": _number(config, "num_key_value_heads", "num_kv_heads", default=heads),
        "head_dim": _number(config, "head_dim", default=hidden // heads),
        "context_length": _number(
            config, "max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_sequence_length", default=0
        ),
    }


def _number(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
            return value
        if value is not None:
            raise InspectionError(f"{CONFIG} gives {name} as {str(value)[:50]!r}; it must be a whole number above 0.")
    if default is None:
        raise InspectionError(f"{CONFIG} gives no {names[0]}.")
    return default


def _indexed(files: ModelFiles, index: dict[str, Any]) -> list[str]:
    entries = index.get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise InspectionError(f"{INDEX} lists no weights.")
    names = sorted({str(name) for name in entries.values()})
    for name in names:
        if PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise InspectionError(f"{INDEX} names a file that is none of the folder's safetensors: {name[:100]!r}.")
        if name not in files.sizes:
            raise InspectionError(f"{INDEX} names {name[:100]}, which is missing.")
    return names


def _stored_tensors(files: ModelFiles, weights: list[str]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name in weights:
        if name.endswith(".safetensors"):
            with _opened(files, name) as file:
                try:
                    tensors |= read_safetensors_header(file, files.sizes[name])
                except SafetensorsError as error:
                    raise InspectionError(f"{name} can't be read: {error}.") from error
    return tensors


def _dtype_of(tensors: dict[str, StoredTensor]) -> str:
    """The one that most of the numbers are stored in."""
    counts = Counter[str]()
    for tensor in tensors.values():
        counts[tensor.dtype] += math.prod(tensor.shape)
    (kind, _), *_ = counts.most_common(1)
    return _DTYPES.get(kind, kind.lower())


def _is_tied(config: dict[str, Any], text: dict[str, Any], tensors: dict[str, StoredTensor]) -> bool:
    """As the config says; where it is silent, a model that stores no head uses its embeddings as one."""
    said = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    if isinstance(said, bool):
        return said
    return bool(tensors) and not any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in tensors)


def _has_chat_template(files: ModelFiles) -> bool:
    if "chat_template.jinja" in files.sizes or "chat_template.json" in files.sizes:
        return True
    return bool((_read_json(files, "tokenizer_config.json") or {}).get("chat_template"))


def _converted_from(files: ModelFiles) -> str:
    """The engine holds in 4 bits, without loss, what came as Q4_1; the converter leaves a note of it."""
    hints = _read_json(files, "engine.json") or {}
    return "Q4_1" if hints.get("quantization") == "int4" else ""


def _read_json(files: ModelFiles, name: str) -> dict[str, Any] | None:
    if name not in files.sizes:
        return None
    if files.sizes[name] > _MAX_JSON:
        raise InspectionError(f"{name} is larger than such a file can be.")
    with _opened(files, name) as file:
        try:
            content = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise InspectionError(f"{name} is no valid JSON.") from error
    if not isinstance(content, dict):
        raise InspectionError(f"{name} holds no JSON object.")
    return content


@contextmanager
def _opened(files: ModelFiles, name: str) -> Iterator[BinaryIO]:
    try:
        file = files.open(name)
    except OSError as error:
        raise InspectionError(f"{name} can't be read: {error.strerror or type(error).__name__}.") from error
    with file:
        yield file


# ------------------------------------------------------------ GGUF files


def _gguf_shape(header: GgufHeader, kind: str, architecture: str, size: int) -> ModelShape:
    def number(key: str, default: int | None = None) -> int:
        value = header.metadata.get(f"{kind}.{key}", default)
        if isinstance(value, list):  # some architectures give one for each layer
            value = max(value, default=None)
        if not isinstance(value, int) or not 0 < value < 2**40:
            raise InspectionError(f"The header gives no {kind}.{key} that could be.")
        return value

    hidden, heads = number("embedding_length"), number("attention.head_count")
    return ModelShape(
        architecture=architecture,
        model_type=kind,
        parameters=sum(tensor.elements for tensor in header.tensors),
        vocab_size=number("vocab_size", header.metadata.get("tokenizer.ggml.tokens#")),
        hidden_size=hidden,
        intermediate_size=number("feed_forward_length"),
        layers=number("block_count"),
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_dim=number("attention.key_length", hidden // heads),
        tied_embeddings=all(tensor.name != "output.weight" for tensor in header.tensors),
        context_length=number("context_length"),
        dtype="bfloat16",
        weight_bytes=size,
        gguf_type=_layer_type(header),
        has_chat_template=bool(header.metadata.get("tokenizer.chat_template")),
    )


def _layer_type(header: GgufHeader) -> str:
    counts = Counter[str]()
    for tensor in header.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            counts[tensor.kind] += tensor.elements
    return counts.most_common(1)[0][0] if counts else ""
