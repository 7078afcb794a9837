"""Prompts to tokens, by the model's own tokenizer and chat template."""

import re
from collections.abc import Sequence as Seq
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from engine.messages import ChatTurn, Generate
from engine.runtime.runner import RequestRefused
from engine.runtime.sequence import Constraint

if TYPE_CHECKING:
    from engine.runtime.grammar import GrammarCompiler

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}  # GPT-2's spelling of bytes


class HuggingFaceTokenizer:
    """A transformers tokenizer, with its Rust part called directly where there is one: it decodes ten times faster."""

    def __init__(self, folder: Path, config: PretrainedConfig, *, trust_remote_code: bool = False) -> None:
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
        self._rust: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        self.has_chat_template = bool(getattr(self._tokenizer, "chat_template", None))
        self.eos_tokens = _eos_tokens(folder, config, self._tokenizer)
        self._vocabulary: int = config.get_text_config().vocab_size
        self._special = frozenset(self._tokenizer.all_special_ids)
        self._compiler: GrammarCompiler | None = None

    def encode(self, request: Generate) -> list[int]:
        tokens: list[int]
        if request.messages is not None and request.raw:
            raise RequestRefused(
                "INVALID_INPUT", "messages need the chat template, which raw switches off", field="raw"
            )
        if request.tokens is not None:
            tokens = list(request.tokens)
        elif request.messages is None and (request.raw or not self.has_chat_template):
            prompt = request.text or ""
            if request.system and not request.raw:
                prompt = f"{request.system}\n\n{prompt}"
            tokens = self._tokenizer.encode(prompt)
        else:
            tokens = self._encode_chat(request)
        if not tokens:
            raise RequestRefused("INVALID_INPUT", "the prompt is empty", field="text")
        return tokens

    def decode(self, tokens: Seq[int]) -> str:
        if self._rust is not None:
            text: str = self._rust.decode(list(tokens), skip_special_tokens=True)
            return text
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_bytes(self, token: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):
            return b""
        if token in self._special:
            return piece.encode()
        if self._is_byte_level and all(character in _BYTES for character in piece):
            return bytes(_BYTES[character] for character in piece)
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return piece.replace("\u2581", " ").encode()

    def constraint(self, schema: str) -> Constraint:
        if self._compiler is None:
            self._compiler = self._made_compiler()
        return self._compiler.compile(schema)

    def _made_compiler(self) -> "GrammarCompiler":
        from engine.runtime.grammar import GrammarCompiler  # only requests with a schema have need of it

        reason = "its tokenizer is no fast one"
        if self._rust is not None:
            try:
                return GrammarCompiler(self._rust.to_str(), self._vocabulary, self.eos_tokens)
            except ValueError as error:
                reason = str(error)
        raise RequestRefused(
            "INVALID_INPUT", f"this model can't be held to a schema: {reason}", field="response_format"
        )

    @cached_property
    def _is_byte_level(self) -> bool:
        return self._rust is not None and "ByteLevel" in str(self._rust.decoder)

    @cached_property
    def _knows_tools(self) -> bool:
        template: str = self._tokenizer.get_chat_template(tools=[{}])  # models may have one of their own for tools
        return re.search(r"\btools\b", template) is not None

    def _encode_chat(self, request: Generate) -> list[int]:
        if not self.has_chat_template:
            raise RequestRefused(
                "INVALID_INPUT", "this model has no chat template; send text instead of messages", field="messages"
            )
        turns = [_turn(turn) for turn in request.messages or ()]
        tools = _json_list(request.tools, "tools") if request.tools else None
        if not self._knows_tools and (tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns)):
            raise RequestRefused(
                "INVALID_INPUT",
                "this model's chat template has no tools",
                field="tools" if tools else "messages",
                reason="unsupported_parameter",
            )
        if not turns:
            turns = [{"role": "user", "content": request.text or ""}]
        if request.system:
            turns.insert(0, {"role": "system", "content": request.system})
        try:
            encoded: Any = self._tokenizer.apply_chat_template(
                turns, tools=tools, add_generation_prompt=True, return_dict=True
            )
        except Exception as error:  # templates raise what they like, for instance for roles that don't alternate
            raise RequestRefused(
                "INVALID_INPUT", f"the model's chat template refuses these messages: {error}", field="messages"
            ) from error
        return list(encoded["input_ids"])


def _turn(turn: ChatTurn) -> dict[str, Any]:
    """A turn as chat templates take it. Raises RequestRefused."""
    made: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        made["tool_calls"] = _json_list(turn.tool_calls, "messages")
    if turn.tool_call_id:
        made["tool_call_id"] = turn.tool_call_id
    return made


def _json_list(text: str, field: str) -> list[Any]:
    """What a plugin may have changed, and so broken. Raises RequestRefused."""
    try:
        return msgspec.json.decode(text, type=list[Any])
    except msgspec.DecodeError:
        raise RequestRefused("INVALID_INPUT", "tools or their calls are no JSON any more", field=field) from None


def _eos_tokens(folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a completion: the tokenizer's, the configuration's, the generation configuration's."""
    found: set[int] = set()
    generation = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").exists() else None
    for value in (
        tokenizer.eos_token_id,
        getattr(config, "eos_token_id", None),
        generation.eos_token_id if generation else None,
    ):
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, list):
            found.update(value)
    return frozenset(found)
