"""OpenAI's own Python package against the echo model, which says the prompt again."""

import time
from typing import Any

import httpx
import openai
import pytest

from common.errors import ApiError, BackendUnavailable, ContentBlocked, InsufficientMemory, RateLimitExceeded
from common.openai_errors import openai_failure
from tests.running_server import RunningServer
from tests.server_keys import make_keys

HELLO: Any = [{"role": "user", "content": "one two three four"}]
ECHOED = "one two three fourone two"


def test_it_lists_and_retrieves_models(client: openai.OpenAI) -> None:
    listed = list(client.models.list())

    assert [model.id for model in listed] == ["echo"]
    assert listed[0].object == "model"
    assert client.models.retrieve("default") == listed[0]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("some/model")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_chat_completion(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=HELLO, max_completion_tokens=6)

    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "echo"
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ECHOED, "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 6, 10)
    assert answer._request_id


def test_a_chat_without_a_limit_goes_on_to_the_end_of_the_context(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=HELLO)

    assert answer.usage is not None
    assert answer.usage.total_tokens == 8192


def test_a_stream_is_the_answer_in_pieces_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="echo", messages=HELLO, max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
    )

    first, *_, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ECHOED
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert last.choices[0].delta.content is None
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 10
    assert {chunk.id for chunk in chunks} == {first.id}
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_without_options_tells_no_usage(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="echo", messages=HELLO, max_tokens=2, stream=True))

    assert all(chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"


def test_a_stop_string_ends_it(client: openai.OpenAI) -> None:
    (choice,) = client.chat.completions.create(model="echo", messages=HELLO, stop=" three").choices

    assert (choice.message.content, choice.finish_reason) == ("one two", "stop")


def test_several_choices_count_their_prompt_once(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=HELLO, max_tokens=3, n=3)

    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (index, "one two three") for index in range(3)
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 9)


def test_several_choices_are_streamed_side_by_side(client: openai.OpenAI) -> None:
    texts = {0: "", 1: "", 2: ""}
    reasons = {}
    usage = None
    for chunk in client.chat.completions.create(
        model="echo", messages=HELLO, max_tokens=6, n=3, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason

    assert texts == dict.fromkeys(range(3), ECHOED)
    assert reasons == dict.fromkeys(range(3), "length")
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (4, 18)


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="echo", prompt=["a b", "c d"], max_tokens=2, n=2)

    assert answer.object == "text_completion"
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "a b"),
        (1, "a b"),
        (2, "c d"),
        (3, "c d"),
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 8)


def test_a_streamed_completion(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="echo", prompt="日本語 🦙", max_tokens=4, stream=True))

    assert "".join(chunk.choices[0].text for chunk in chunks).startswith("日本語 🦙")
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_the_async_client(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(model="echo", messages=HELLO, max_tokens=6)
    stream = await async_client.chat.completions.create(model="echo", messages=HELLO, max_tokens=6, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert answer.choices[0].message.content == text == ECHOED


async def test_a_stream_that_is_left_is_cancelled(async_client: openai.AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(model="echo", messages=HELLO, stream=True)
    async for _ in stream:
        break
    await stream.close()

    answer = await async_client.chat.completions.create(model="echo", messages=HELLO, max_tokens=1)

    assert answer.choices[0].message.content == "one"


def test_errors_have_the_types_that_the_client_knows(client: openai.OpenAI, echo_server: RunningServer) -> None:
    def ask(**fields: Any) -> None:
        client.chat.completions.create(**{"model": "echo", "messages": HELLO, **fields})

    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="nothing")
    assert (missing.value.code, missing.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as unsupported:
        ask(verbosity="low")
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "verbosity")
    assert unsupported.value.request_id == unsupported.value.response.headers["X-Request-ID"]
    with pytest.raises(openai.BadRequestError) as too_long:
        ask(messages=[{"role": "user", "content": "x " * 9000}])
    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as too_much:
        ask(max_completion_tokens=8192)
    assert (too_much.value.code, too_much.value.param) == ("context_length_exceeded", "max_completion_tokens")
    with pytest.raises(openai.InternalServerError) as failed:
        ask(messages=[{"role": "user", "content": "[[fail]]"}])
    assert (failed.value.code, failed.value.type) == ("inference_failed", "server_error")
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="lgpu_wrong").models.list()
    assert unknown.value.code == "invalid_api_key"
    (reader,) = make_keys(echo_server, {"name": "reads only", "permission": "read"})
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        client.with_options(api_key=reader).completions.create(model="echo", prompt="x")
    assert forbidden.value.code == "insufficient_permissions"


def test_a_failure_in_a_stream_reaches_the_client(client: openai.OpenAI) -> None:
    fails: Any = [{"role": "user", "content": "[[fail]]"}]

    with pytest.raises(openai.APIError) as caught:
        list(client.chat.completions.create(model="echo", messages=fails, stream=True))

    assert caught.value.code == "inference_failed"


def test_a_token_budget_bounds_it(client: openai.OpenAI, echo_server: RunningServer) -> None:
    (key,) = make_keys(echo_server, {"name": "budgeted", "token_budget": 400, "token_budget_window": 3600})
    limited = client.with_options(api_key=key)

    limited.chat.completions.create(model="echo", messages=HELLO, max_tokens=150)
    with pytest.raises(openai.RateLimitError) as caught:
        limited.chat.completions.create(model="echo", messages=HELLO, max_tokens=150)

    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "tokens")
    assert int(caught.value.response.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "nothing", 404, "not_found"),
        ("GET", "chat/completions", 405, "method_not_allowed"),
        ("POST", "responses", 404, "not_found"),
    ],
)
def test_addresses_that_are_not_there_fail_in_openais_shape(
    echo_server: RunningServer, method: str, path: str, status: int, code: str
) -> None:
    answer = httpx.request(method, f"{echo_server.url}/v1/{path}", headers=echo_server.headers)

    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == code


def test_it_counts_in_the_groups_of_infer_and_models(echo_server: RunningServer) -> None:
    body = {"messages": HELLO, "max_tokens": 1}
    chat = httpx.post(f"{echo_server.url}/v1/chat/completions/", json=body, headers=echo_server.headers)
    infer = httpx.post(f"{echo_server.url}/api/v1/infer", json={"text": "x"}, headers=echo_server.headers)
    models = httpx.get(f"{echo_server.url}/v1/models", headers=echo_server.headers)

    left = "X-RateLimit-Remaining"
    assert int(infer.headers[left]) == int(chat.headers[left]) - 1
    assert models.headers["X-RateLimit-Limit"] == "5000"


def test_other_formats_and_broken_json_are_refused(echo_server: RunningServer) -> None:
    url = f"{echo_server.url}/v1/completions"
    form = httpx.post(url, data={"prompt": "x"}, headers=echo_server.headers)
    broken = httpx.post(url, content=b"{", headers={**echo_server.headers, "Content-Type": "application/json"})

    assert (form.status_code, form.json()["error"]["type"]) == (415, "invalid_request_error")
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")


def test_logprobs_stand_beside_the_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo", messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=1, seed=1
    )
    streamed = []
    for chunk in client.chat.completions.create(
        model="echo", messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=1, stream=True
    ):
        logprobs = chunk.choices[0].logprobs
        streamed += (logprobs.content or []) if logprobs else []

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["one", " two", " three"]
    assert [entry.top_logprobs[0].token for entry in logprobs.content] == ["one", " two", " three"]
    assert logprobs.content[0].bytes == list(b"one")
    assert logprobs.content[0].logprob == 0
    assert streamed == logprobs.content


def test_a_stop_string_has_no_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=HELLO, stop=" three", logprobs=True)
    tokens = []
    for chunk in client.chat.completions.create(
        model="echo", messages=HELLO, stop=" three", logprobs=True, stream=True
    ):
        logprobs = chunk.choices[0].logprobs
        tokens += [entry.token for entry in (logprobs.content or [])] if logprobs else []

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [entry.token for entry in logprobs.content or []] == tokens == ["one", " two"]


def test_logprobs_of_a_text_completion(client: openai.OpenAI) -> None:
    logprobs = client.completions.create(model="echo", prompt="a bc", max_tokens=2, logprobs=1).choices[0].logprobs

    assert logprobs is not None
    assert logprobs.tokens == ["a", " bc"]
    assert logprobs.text_offset == [0, 1]
    assert logprobs.top_logprobs == [{"a": 0.0}, {" bc": 0.0}]


def test_a_runner_that_knows_no_schemas_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=HELLO, response_format={"type": "json_object"})

    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (RateLimitExceeded(retry_after=7), openai.RateLimitError, "rate_limit_exceeded"),
        (BackendUnavailable(retry_after=7), openai.InternalServerError, "backend_unavailable"),
        (InsufficientMemory(), openai.InternalServerError, "insufficient_memory"),
        (ContentBlocked(), openai.UnprocessableEntityError, "content_filter"),
    ],
)
def test_what_a_test_cannot_bring_about_has_types_that_the_client_knows(
    error: ApiError, kind: type[openai.APIStatusError], code: str
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(error.status, json=openai_failure(error), headers=error.headers)

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="k", max_retries=0, http_client=http)
        with pytest.raises(kind) as caught:
            client.models.list()

    assert caught.value.code == code
    assert caught.value.response.headers.get("Retry-After") == (None if error.retry_after is None else "7")


def test_a_request_keeps_its_id_from_the_header_to_its_record(
    client: openai.OpenAI, echo_server: RunningServer
) -> None:
    answer = client.chat.completions.create(
        model="echo", messages=HELLO, max_tokens=2, extra_headers={"X-Request-ID": "my-own-chat"}
    )
    assert (answer._request_id, answer.id) == ("my-own-chat", "chatcmpl-my-own-chat")
    deadline = time.monotonic() + 30
    while (
        record := httpx.get(f"{echo_server.url}/api/v1/requests/my-own-chat", headers=echo_server.headers)
    ).status_code != 200:
        assert time.monotonic() < deadline, record.text  # records are written in batches
        time.sleep(0.1)
    request = record.json()["request"]
    (item,) = request["items"]
    assert (request["kind"], item["prompt_tokens"], item["tokens_generated"]) == ("chat_completions", 4, 2)
