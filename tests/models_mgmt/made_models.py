"""Small models made up for tests: files in memory, as a folder or a repository holds them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import save
from tokenizers.pre_tokenizers import ByteLevel

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
PARAMETERS = 64 * 32 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32) + 32


_GGUF_LAYER = {
    "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32), "ffn_gate": (48, 32),
    "ffn_up": (48, 32), "ffn_down": (32, 48), "attn_norm": (32,), "ffn_norm": (32,),
}  # fmt: skip
GGUF_PARAMETERS = PARAMETERS + (259 - 64) * 32


def weights(dtype: Any = np.float16) -> dict[str, np.ndarray[Any, Any]]:
    """Every weight of a model as CONFIG has it."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, 32), "model.norm.weight": (32,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_proj.weight": (32, 32),
            f"{prefix}.self_attn.k_proj.weight": (16, 32),
            f"{prefix}.self_attn.v_proj.weight": (16, 32),
            f"{prefix}.self_attn.o_proj.weight": (32, 32),
            f"{prefix}.mlp.gate_proj.weight": (48, 32),
            f"{prefix}.mlp.up_proj.weight": (48, 32),
            f"{prefix}.mlp.down_proj.weight": (32, 48),
            f"{prefix}.input_layernorm.weight": (32,),
            f"{prefix}.post_attention_layernorm.weight": (32,),
        }
    return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}


def model_files(*, chat: bool = True, **config: Any) -> dict[str, bytes]:
    """The files of a whole model; `config` changes its configuration, None takes a key out."""
    content = {name: value for name, value in {**CONFIG, **config}.items() if value is not None}
    tokenizer = {"chat_template": "{{ messages }}"} if chat else {}
    return {
        "config.json": json.dumps(content).encode(),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": save(weights()),
    }


def pickled_files(**config: Any) -> dict[str, bytes]:
    """A model whose only weights are said to be pickles."""
    files = model_files(**config)
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    return files


def sharded_files() -> dict[str, bytes]:
    """The same model in two files with an index."""
    files = model_files()
    del files["model.safetensors"]
    names = sorted(weights())
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for shard, held in shards.items():
        files[shard] = save({name: weights()[name] for name in held})
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    return files


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    heads_kv: int | list[int] = 2,
    tokenizer: str = "gpt2",
    layers_as: GGMLQuantizationType = GGMLQuantizationType.F16,
    feed_forward: int = 48,
    parts: int = 0,
) -> Path:
    """A GGUF file of a model shaped as CONFIG but for its vocabulary, which has every byte. Its weights are zeros.

    `parts`: of how many files it says to be one.
    """
    tokens = [*sorted(ByteLevel.alphabet()), "ab", "<s>", "</s>"]
    writer = GGUFWriter(str(path), architecture)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(4)
    writer.add_head_count_kv(heads_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template("{{ messages }}")
    if parts:
        writer.add_uint16("split.count", parts)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), np.float16))
    writer.add_tensor("output_norm.weight", np.zeros(32, np.float32))
    for layer in range(2):
        for name, shape in _GGUF_LAYER.items():
            sizes = tuple(feed_forward if size == 48 else size for size in shape)
            kind = layers_as if len(shape) > 1 else GGMLQuantizationType.F32
            zeros = quantize(np.zeros(sizes, np.float32), kind)
            writer.add_tensor(f"blk.{layer}.{name}.weight", zeros, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
