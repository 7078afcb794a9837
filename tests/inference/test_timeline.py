"""The stages of requests, whatever became of them."""

from typing import Any

import pytest

from engine.messages import Accepted, Finished, Generate
from engine.params import SamplingParams
from inference.messages import Job
from inference.models import RequestRecord
from inference.running import RunningTable
from inference.timeline import stages

TAKEN = {"auth_time": 0.01, "door_time": 0.03, "taken_time": 0.02}
ACCEPTED = {**TAKEN, "prepared_time": 0.05, "accept_time": 0.06}
GENERATED = {**ACCEPTED, "queue_time": 0.1, "prefill_time": 0.2, "decode_time": 0.4, "completion_tokens": 5}


def told(state: str, **fields: Any) -> dict[str, float]:
    found = stages(RequestRecord(state=state, total_time=1.0, **fields))
    end = 0.0
    for stage in found:  # without gaps
        assert stage.start == pytest.approx(end)
        end = stage.start + stage.seconds
    assert end == pytest.approx(fields["door_time"] + 1.0)
    return {stage.name: round(stage.seconds, 6) for stage in found}


def test_a_completed_request_has_them_all() -> None:
    assert told("completed", finish_reason="stop", **GENERATED) == {
        "auth": 0.01,
        "prepare": 0.02,
        "dispatch": 0.02,
        "plugins": 0.03,
        "admission": 0.01,
        "queue": 0.1,
        "prefill": 0.2,
        "decode": 0.4,
        "delivery": 0.24,
    }


def test_what_a_plugin_refuses_ends_in_the_plugins() -> None:
    found = told("failed", error_code="INVALID_INPUT", **TAKEN)
    assert found == {"auth": 0.01, "prepare": 0.02, "dispatch": 0.02, "plugins": 0.98}


def test_what_no_engine_takes_ends_in_its_admission() -> None:
    found = told("failed", error_code="MODEL_LOAD_FAILED", **TAKEN, prepared_time=0.05)
    assert list(found.items())[-1] == ("admission", 0.95)


def test_of_what_fails_in_the_engine_its_times_are_unknown() -> None:
    found = told("failed", error_code="INFERENCE_FAILED", **ACCEPTED)
    assert list(found.items())[-1] == ("engine", 0.94)


@pytest.mark.parametrize(
    ("figures", "last"),
    [
        ({**ACCEPTED, "queue_time": 0.5}, "queue"),
        ({**ACCEPTED, "queue_time": 0.1, "prefill_time": 0.3}, "prefill"),
        (GENERATED, "decode"),
    ],
)
def test_a_cancelled_one_ends_in_the_stage_that_it_had_come_to(figures: dict[str, Any], last: str) -> None:
    found = told("cancelled", finish_reason="cancelled", cancel_reason="timeout", **figures)
    assert list(found)[-1] == last


def test_times_that_disagree_by_a_little_never_go_back() -> None:
    figures = {**GENERATED, "decode_time": 0.5, "total_time": 0.8}
    found = stages(RequestRecord(state="completed", finish_reason="stop", **figures))
    assert all(stage.seconds >= 0 for stage in found)


def test_a_step_that_accepts_and_runs_a_request_is_not_counted_twice() -> None:
    """The engine tells of both at the step's end: the acceptance seems later than it was."""
    request = Generate("r~1", SamplingParams(), text="a")
    job = Job("r~1", "r", "infer", "m", "web", (request,), submitted_at=100.0, seconds=60)
    table = RunningTable()
    parent, (entry,) = table.add(job)
    parent.began(105.0)  # it has waited for 5 s
    entry.prepared_time = 1.0
    table.match([Accepted("r~1", 3)])
    assert entry.accept_time >= 5.0

    table.match([Finished("r~1", "a", "a", "stop", 3, 1, 0, 0.5, 2.0, 1.0)])
    assert entry.accept_time == pytest.approx(1.5, abs=0.2)
