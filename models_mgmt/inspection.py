"""What a model is, read from its files without loading it: no torch, no transformers, no weights."""

import msgspec


class ModelShape(msgspec.Struct, frozen=True):
    """The facts of a model that its memory, its placement and its record are worked out from.

    `parameters` counts every stored weight, a tied head once. `dtype`: what the weights are stored in (`bfloat16`).
    `weight_bytes`: on disk. `gguf_type`: what most of a GGUF file's weights are held in (`Q4_1`); empty for
    safetensors. `has_pickle`: the only weights are pickles. `has_remote_code`: the files name Python code of their own.
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
