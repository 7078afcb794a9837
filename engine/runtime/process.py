"""The engine process: takes its configuration, loads the model, runs the loop until its worker ends."""

import logging
import queue
import signal
import socket
import time
from collections.abc import Callable

from engine.framing import FrameReceiver, FrameSender
from engine.messages import Command, EngineConfig, LoadFailed, Loading, Ready, Step
from engine.runtime.blocks import BLOCK_SIZE, BlockPool
from engine.runtime.echo import EchoRunner
from engine.runtime.loop import EngineLoop, Inbox
from engine.runtime.receiver import CommandReceiver
from engine.runtime.runner import ModelLoadError, Runner
from engine.runtime.scheduler import Scheduler

logger = logging.getLogger(__name__)

Progress = Callable[[float, str], None]


def main(descriptor: int) -> int:
    """Serve the worker at the other end of the socket; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Ctrl-C reaches the whole terminal group; only the worker decides when its engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=descriptor)
    sender = FrameSender(sock)
    commands: FrameReceiver[Command] = FrameReceiver(sock, Command)
    config = commands.receive()
    if not isinstance(config, EngineConfig):
        logger.error("the first message was no configuration")
        return 1
    began = time.perf_counter()
    try:
        runner = load_runner(config, lambda share, stage: sender.send(Loading(share, stage)))
    except ModelLoadError as error:
        logger.error("loading %s failed: %s", config.model_path, error.message)
        sender.send(LoadFailed(error.code, error.message, error.needed_bytes, error.free_bytes))
        return 1
    except Exception as error:  # whatever a broken file makes a library raise is a failed load
        logger.exception("loading %s failed", config.model_path)
        sender.send(LoadFailed("MODEL_LOAD_FAILED", f"the model could not be loaded ({type(error).__name__})"))
        return 1
    _serve(config, runner, commands, sender, time.perf_counter() - began)
    return 0


def load_runner(config: EngineConfig, progress: Progress) -> Runner:
    """Load the configured model. Raises ModelLoadError, or what the libraries raise on a broken file."""
    if config.runner == "echo":
        return EchoRunner(config)
    progress(0.0, "import")
    # torch takes seconds to import; the echo runner has no need of it
    from engine.runtime.torch_runner import TorchRunner

    return TorchRunner(config, progress)


def build_loop(config: EngineConfig, runner: Runner, inbox: Inbox, send: Callable[[Step], None]) -> EngineLoop:
    """Wire the loop's parts together."""
    pool = BlockPool(runner.facts.kv_blocks, prefix_caching=config.prefix_caching)
    scheduler = Scheduler(
        pool,
        max_sequences=config.max_sequences,
        prefill_chunk=config.prefill_chunk,
        mixed_chunk=config.mixed_chunk,
    )
    return EngineLoop(runner, scheduler, inbox, send)


def _serve(
    config: EngineConfig, runner: Runner, commands: FrameReceiver[Command], sender: FrameSender, load_time: float
) -> None:
    inbox: Inbox = queue.SimpleQueue()
    loop = build_loop(config, runner, inbox, sender.send)
    facts = runner.facts
    sender.send(
        Ready(
            backend=facts.backend,
            architecture=facts.architecture,
            parameters=facts.parameters,
            vocab_size=facts.vocab_size,
            context_length=facts.context_length,
            quantization=facts.quantization,
            has_chat_template=runner.tokenizer.has_chat_template,
            memory_bytes=facts.memory_bytes,
            kv_cache_bytes=facts.kv_cache_bytes,
            max_sequences=config.max_sequences,
            load_time=load_time,
            weight_bytes=facts.weight_bytes,
            kv_tokens=facts.kv_blocks * BLOCK_SIZE,
            devices=facts.devices,
            device_bytes=facts.device_bytes,
        )
    )
    CommandReceiver(commands, runner, inbox).start()
    try:
        loop.run()
    except OSError:
        logger.info("the worker is gone; ending")
