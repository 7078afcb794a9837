"""The prompt formats that well-known models were trained with, for models that bring no chat template of their own."""

from collections.abc import Callable

from plugins_app.hookspecs import Prompt, Turn

# Each takes the system prompt ("" for none) and the other turns, and ends where the model is to go on.
Format = Callable[[str, list[Turn]], str]


def render(name: str, prompt: Prompt) -> str:
    """The prompt as one text in a format of FORMATS."""
    given = prompt.messages or (Turn("user", prompt.text or ""),)
    turns = [Turn(turn.role, _without(_MARKERS[name], turn.content)) for turn in given]
    system = [turn.content for turn in turns if turn.role == "system"]
    if prompt.system:
        system.insert(0, prompt.system)
    return FORMATS[name]("\n\n".join(system), [turn for turn in turns if turn.role != "system"])


def _without(markers: tuple[str, ...], text: str) -> str:
    """What a caller writes must not end its own turn: the format's markers are taken out of it. A character of none of
    them stands there instead, lest what was around one become another."""
    for marker in markers:
        text = text.replace(marker, "\ufffd")
    return text


def _alpaca(system: str, turns: list[Turn]) -> str:
    """https://github.com/tatsu-lab/stanford_alpaca, with its own system sentence."""
    preamble = system or (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    )
    names = {"user": "### Instruction:", "assistant": "### Response:"}
    return "\n\n".join([preamble, *(f"{names[turn.role]}\n{turn.content}" for turn in turns), "### Response:\n"])


def _chatml(system: str, turns: list[Turn]) -> str:
    """OpenAI's ChatML, as Qwen and SmolLM use it."""
    whole = [Turn("system", system), *turns] if system else turns
    return "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in whole) + "<|im_start|>assistant\n"


def _llama2(system: str, turns: list[Turn]) -> str:
    """https://github.com/meta-llama/llama: the system prompt stands in the first user turn. The tokenizer adds the
    first <s>."""
    parts: list[str] = []
    before = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    for turn in turns:
        if turn.role == "user":
            parts.append(f"[INST] {before}{turn.content} [/INST]")
            before = ""
        else:
            parts.append(f" {turn.content} </s><s>")
    return "".join(parts)


def _llama3(system: str, turns: list[Turn]) -> str:
    """https://github.com/meta-llama/llama3. The tokenizer adds <|begin_of_text|>."""
    whole = [Turn("system", system), *turns] if system else turns
    heads = [f"<|start_header_id|>{turn.role}<|end_header_id|>\n\n{turn.content}<|eot_id|>" for turn in whole]
    return "".join(heads) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def _plain(system: str, turns: list[Turn]) -> str:
    """Names and colons, for base models."""
    names = {"user": "User", "assistant": "Assistant"}
    lines = [f"{names[turn.role]}: {turn.content}" for turn in turns]
    return "\n\n".join([*([system] if system else []), *lines, "Assistant:"])


def _vicuna(system: str, turns: list[Turn]) -> str:
    """https://github.com/lm-sys/FastChat, vicuna_v1.1."""
    preamble = system or (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    names = {"user": "USER", "assistant": "ASSISTANT"}
    ends = {"user": " ", "assistant": "</s>"}
    return preamble + " " + "".join(f"{names[t.role]}: {t.content}{ends[t.role]}" for t in turns) + "ASSISTANT:"


FORMATS: dict[str, Format] = {
    "alpaca": _alpaca,
    "chatml": _chatml,
    "llama2": _llama2,
    "llama3": _llama3,
    "plain": _plain,
    "vicuna": _vicuna,
}
_MARKERS: dict[str, tuple[str, ...]] = {
    "alpaca": ("### Instruction:", "### Response:"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama2": ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "plain": (),
    "vicuna": ("<s>", "</s>"),
}
