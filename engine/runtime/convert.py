"""Turns a GGUF file into a folder of safetensors, once, so that later loads take a fraction of a second.

    python -m engine.runtime.convert FILE.gguf FOLDER

The folder appears under its name only when it is whole and verified. Progress goes to standard output as lines; the
exit status is 1, with one sentence on standard error, when the file can't be converted.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from engine.runtime.hints import write_hints

_SAMPLE = "The year 2048 isn't far: naïve café, 北京, 🦙!\n\n  def f(x):\n    return x"


class ConversionError(Exception):
    """The file can't be converted; the text says why."""


def convert(source: Path, target: Path) -> None:
    """Write `source`, dequantised to bfloat16, with its tokenizer and chat template to the folder `target`.

    Raises ConversionError; then nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        folder = Path(scratch) / target.name
        try:
            say("reading the tokenizer")
            tokenizer = load_tokenizer(source)
            say("reading and dequantising the weights")
            model = load_model(source)
        except Exception as error:  # a broken file makes gguf and transformers raise almost anything
            raise ConversionError(f"{source.name} can't be read as a language model: {error}") from error
        if tokenizer.model_max_length > model.config.max_position_embeddings:
            tokenizer.model_max_length = model.config.max_position_embeddings
        say("writing safetensors")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_hints(folder, quantization=own_quantization(source))
        say("verifying")
        verify(folder, model, tokenizer)
        for file in folder.iterdir():
            file.chmod(0o644)
        shutil.rmtree(target, ignore_errors=True)
        folder.replace(target)


def own_quantization(source: Path) -> str:
    """What the engine holds the file's weights in without loss: int4 for Q4_1 layers, else bf16."""
    kinds = Counter[str]()
    for tensor in GGUFReader(source).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            kinds[tensor.tensor_type.name] += int(tensor.n_elements)
    return "int4" if kinds and kinds.most_common(1)[0][0] == "Q4_1" else "bf16"


def load_model(source: Path) -> PreTrainedModel:
    """The model of a GGUF file in bfloat16, free of every trace of its quantisation.

    transformers refuses to save a model it dequantised from GGUF, so the weights move into a plain one.
    """
    read = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    plain_config = read.config
    plain_config.__dict__.pop("quantization_config", None)
    plain: Any = type(read)(plain_config)  # transformers' own annotations don't cover what follows
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    plain.generation_config = read.generation_config
    converted: PreTrainedModel = plain.to(torch.bfloat16)
    return converted


def load_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file, with the splitting rule its header names where transformers drops it."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    rule = GGUFReader(source).get_field("tokenizer.ggml.pre")
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and rule is not None and rule.contents() == "smollm":
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    return tokenizer


def verify(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Read the folder back and compare: weights bit by bit, the tokenizer on a sample, the chat template."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 — a safe_open handle is no mapping
                if not torch.equal(stored.get_tensor(name), model.state_dict()[name]):
                    raise ConversionError(f"the weight {name} was not written as it was read")
                expected.pop(name, None)
    if expected:
        raise ConversionError(f"the weights {', '.join(sorted(expected)[:3])} were not written")
    reread: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    ids: Any = tokenizer.encode(_SAMPLE)
    if reread.encode(_SAMPLE) != ids or reread.decode(ids, clean_up_tokenization_spaces=False) != _SAMPLE:
        raise ConversionError("the tokenizer does not give the same tokens after it was written")
    if reread.chat_template != tokenizer.chat_template:
        raise ConversionError("the chat template was not written as it was read")


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.runtime.convert", description="GGUF to safetensors.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    try:
        convert(arguments.source.resolve(), arguments.target.absolute())
    except ConversionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or arguments.target}: {error.strerror or error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
