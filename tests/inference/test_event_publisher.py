import msgspec
from pytest_django import Settings

from common.event_reader import read_events
from common.events import InferenceCancelled, InferenceCompleted, InferenceFailed, InferenceStarted
from engine.messages import Accepted, Delta, Failed, Finished, Generate
from engine.params import SamplingParams
from inference.event_publisher import EventPublisher, inference_event
from inference.messages import Job
from inference.running import Running, RunningJob

JOB = Job("j~1", "j", "batch_infer", "m", "web", (Generate("j~1", SamplingParams(), text="a prompt"),), 1.0, 2.0, 7)
END = Finished(
    request_id="j~1",
    text="an answer",
    delta="",
    finish_reason="stop",
    prompt_tokens=2,
    completion_tokens=3,
    cached_tokens=0,
    queue_time=0.25,
    prefill_time=0.5,
    decode_time=1.0,
)


def entry(accept_time: float = 0.0) -> Running:
    running = Running(RunningJob(JOB), 1, "j~1")
    running.accept_time = accept_time
    return running


def test_an_end_is_told_with_the_figures_of_the_answer() -> None:
    assert inference_event(entry(accept_time=0.125), END, "cpu") == InferenceCompleted(
        request_id="j",
        item=1,
        model="m",
        kind="batch_infer",
        user_id=7,
        backend="cpu",
        prompt_tokens=2,
        tokens_generated=3,
        inference_time=1.5,
        queue_time=0.375,
        time_to_first_token=0.875,
        finish_reason="stop",
        generated_text="an answer",
    )


def test_a_setting_keeps_texts_out_of_events(settings: Settings) -> None:
    settings.EVENT_TEXT_CHARACTERS = 0
    told = inference_event(entry(), END, "cpu")
    assert isinstance(told, InferenceCompleted)
    assert (told.generated_text, told.is_text_cut, told.tokens_generated) == ("", True, 3)


def test_a_long_text_is_cut_and_says_so(settings: Settings) -> None:
    most = settings.EVENT_TEXT_CHARACTERS
    whole, cut = "x" * most, "x" * (most + 1)
    for text, is_cut in ((whole, False), (cut, True)):
        told = inference_event(entry(), msgspec.structs.replace(END, text=text), "cpu")
        assert isinstance(told, InferenceCompleted)
        assert (told.generated_text, told.is_text_cut) == (whole, is_cut)


def test_every_other_turn_has_its_event_and_text_has_none() -> None:
    cancelled = entry()
    cancelled.cancelled = "timeout"
    told = inference_event(cancelled, msgspec.structs.replace(END, finish_reason="cancelled"), "cpu")
    assert isinstance(told, InferenceCancelled)
    assert (told.reason, told.tokens_generated) == ("timeout", 3)
    assert isinstance(inference_event(entry(), Accepted("j~1", 2), "cpu"), InferenceStarted)
    assert isinstance(inference_event(entry(), Failed("j~1", "INFERENCE_FAILED", "No."), "cpu"), InferenceFailed)
    assert inference_event(entry(), Delta("j~1", "an", 1), "cpu") is None


async def test_what_is_left_at_the_end_is_published(clean_redis: str) -> None:
    publisher = EventPublisher("cpu")
    publisher.start()
    publisher.put(entry(), Accepted("j~1", 2))
    publisher.put(entry(), END)
    publisher.stop()
    read = await read_events()
    assert [recorded.event.name for recorded in read] == ["inference_started", "inference_completed"]
    assert "a prompt" not in str(read)
