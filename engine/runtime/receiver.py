"""Takes the worker's commands, tokenises prompts beside the running loop, and refuses what can't be served."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec

from engine.framing import FrameReceiver
from engine.messages import Abort, Command, Failed, Generate, Shutdown
from engine.params import InvalidParameter
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.loop import AbortRequest, Inbox, Stop
from engine.runtime.runner import PromptTokenizer, RequestRefused, Runner
from engine.runtime.sequence import Sequence

logger = logging.getLogger(__name__)


class CommandReceiver:
    """A thread that turns each Generate into a Sequence or a Failed for the loop's inbox.

    The end of the connection, which is the end of the worker, stops the loop.
    """

    def __init__(self, frames: FrameReceiver[Command], runner: Runner, inbox: Inbox) -> None:
        self._frames = frames
        self._tokenizer: PromptTokenizer = runner.tokenizer
        self._context_length = runner.facts.context_length
        self._vocab_size = runner.facts.vocab_size
        self._inbox = inbox
        self._compiler = ThreadPoolExecutor(1, "grammar")
        self._compiling: dict[str, bool] = {}  # and whether they were aborted meanwhile
        self._lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._receive, name="receiver", daemon=True).start()

    def _receive(self) -> None:
        try:
            while (command := self._frames.receive()) is not None:
                match command:
                    case Generate() if command.response_schema:
                        with self._lock:
                            self._compiling[command.request_id] = False
                        self._compiler.submit(self._compile, command)
                    case Generate():
                        self._inbox.put(self._prepare(command))
                    case Abort():
                        self._abort(command.request_id)
                    case Shutdown():
                        break
        finally:
            self._compiler.shutdown(wait=False, cancel_futures=True)
            self._inbox.put(Stop())

    def _abort(self, request_id: str) -> None:
        with self._lock:
            if request_id in self._compiling:
                self._compiling[request_id] = True
                return
        self._inbox.put(AbortRequest(request_id))

    def _compile(self, request: Generate) -> None:
        """Prepare a request with a schema, which others don't wait for."""
        prepared = self._prepare(request)
        with self._lock:
            self._inbox.put(prepared)
            if self._compiling.pop(request.request_id):
                self._inbox.put(AbortRequest(request.request_id))

    def _prepare(self, request: Generate) -> Sequence | Failed:
        try:
            request.params.validate()
            prompt = self._tokenizer.encode(request)
            self._check_tokens(request, prompt)
            request = self._fitted(request, len(prompt))
            constraint = self._tokenizer.constraint(request.response_schema) if request.response_schema else None
        except InvalidParameter as error:
            return Failed(request.request_id, "INVALID_INPUT", error.message, {"field": error.field})
        except RequestRefused as error:
            return Failed(request.request_id, error.code, error.message, error.details)
        except Exception:  # a prompt that breaks the tokenizer fails alone
            logger.exception("request %s: the prompt can't be tokenised", request.request_id)
            return Failed(request.request_id, "INFERENCE_FAILED", "the prompt can't be tokenised")
        return Sequence(request, prompt, Detokenizer(self._tokenizer.decode, request.params.stop), constraint)

    def _check_tokens(self, request: Generate, prompt: list[int]) -> None:
        """Raises RequestRefused for tokens that the model doesn't have."""
        if max(prompt) >= self._vocab_size:
            if request.tokens is not None:
                message = f"the model's tokens end at {self._vocab_size - 1}"
                raise RequestRefused("INVALID_INPUT", message, field="text")
            raise RequestRefused("INFERENCE_FAILED", "the model has no embedding for a token of this prompt")
        if any(token >= self._vocab_size for token, _ in request.params.logit_bias):
            message = f"the model's tokens end at {self._vocab_size - 1}"
            raise RequestRefused("INVALID_INPUT", message, field="logit_bias")

    def _fitted(self, request: Generate, prompt_tokens: int) -> Generate:
        """The request with as many tokens as it may have. Raises RequestRefused when that is too few."""
        context, reserved = self._context_length, request.most_tokens
        limit = context if reserved is None else min(context, reserved)
        if request.fills_context and not request.embed and prompt_tokens < limit:
            most = min(request.params.max_tokens, limit - prompt_tokens)
            return msgspec.structs.replace(request, params=msgspec.structs.replace(request.params, max_tokens=most))
        asked = 0 if request.embed else 1 if request.fills_context else request.params.max_tokens
        if prompt_tokens + asked > context:
            raise _too_long_for_context(request, prompt_tokens, asked, context)
        if prompt_tokens + asked > limit:
            raise RequestRefused(
                "INVALID_INPUT",
                f"prompt of {prompt_tokens} tokens, with what the server adds to it, and max_tokens of {asked} are "
                f"more than the {limit} tokens that could be reserved in the key's token budget",
                field="max_tokens",
                prompt_tokens=prompt_tokens,
                max_tokens=asked,
                reserved_tokens=limit,
            )
        return request


def _too_long_for_context(request: Generate, prompt_tokens: int, asked: int, context: int) -> RequestRefused:
    field = "max_tokens" if prompt_tokens < context else "messages" if request.messages else "text"
    return RequestRefused(
        "INVALID_INPUT",
        f"prompt of {prompt_tokens} tokens and max_tokens of {asked} "
        f"are more than the model's context of {context} tokens",
        field=field,
        prompt_tokens=prompt_tokens,
        max_tokens=asked,
        context_length=context,
    )
