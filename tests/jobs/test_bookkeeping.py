"""What keeps each item to one result: the ledger, the lease, and how lines become items."""

import threading
from datetime import timedelta

import pytest
from django.test import override_settings
from django.utils import timezone

from accounts.audit import SERVER
from accounts.caller import Caller, granted_by
from accounts.keys import create_api_key, revoke_api_key
from accounts.models import User
from common.errors import Conflict, InferenceFailed, InvalidInput, ModelNotFound, PayloadTooLarge, RateLimitExceeded
from jobs import files, services
from jobs.execution import Outcome
from jobs.ingestion import Ingestion
from jobs.input_lines import csv_lines, json_lines
from jobs.lease import Lease
from jobs.ledger import Again, Turn, end_if_done, write
from jobs.models import DispatcherLease, File, Job, JobItem
from jobs.overview import look
from jobs.shares import Contender, shared_out
from jobs.upkeep import prune
from jobs.verdicts import MAX_ATTEMPTS, verdict
from tests.jobs.made import a_file, a_job

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_for_threads")]


@pytest.fixture
def redis_for_threads(redis_url: str, settings: object) -> None:
    settings.REDIS_URL = redis_url  # type: ignore[attr-defined]


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", role="operator")


def caller_of(user: User) -> Caller:
    return Caller(identity="user:ada", permissions=granted_by("write"), user_id=user.pk, username=user.username)


def test_a_result_counts_once_whatever_is_delivered_twice(ada: User) -> None:
    job = a_job(ada)
    taken, _ = write(Turn(wants={job.pk: (2, False)}), "first")
    outcomes = [Outcome(item, True, "{}", 3, 4) for item in taken]

    write(Turn(outcomes=outcomes), "first")
    write(Turn(outcomes=[Outcome(item, False, '{"other": 1}') for item in taken]), "first")

    job.refresh_from_db()
    assert (job.state, job.completed, job.failed, job.completion_tokens) == ("running", 2, 0, 8)
    assert set(JobItem.objects.filter(job=job, state="completed").values_list("result", flat=True)) == {"{}"}


def test_who_has_lost_the_lease_can_write_no_results(ada: User) -> None:
    job = a_job(ada)
    first, second = Lease(), Lease()
    assert first.hold()
    taken, _ = write(Turn(wants={job.pk: (3, False)}), first.holder)
    assert not second.hold()
    DispatcherLease.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert second.hold()
    assert second.take_over() == 3
    assert not first.hold()

    again, _ = write(Turn(wants={job.pk: (3, False)}), second.holder)
    write(Turn(outcomes=[Outcome(item, True, '"late"') for item in taken]), first.holder)
    write(Turn(outcomes=[Outcome(item, True, '"right"') for item in again]), second.holder)

    job.refresh_from_db()
    assert job.completed == 3
    assert set(JobItem.objects.values_list("result", flat=True)) == {'"right"'}


def test_who_goes_leaves_everything_to_the_next(ada: User) -> None:
    job = a_job(ada)
    first, second = Lease(), Lease()
    first.hold()
    write(Turn(wants={job.pk: (3, False)}), first.holder)
    first.let_go()
    assert second.hold()
    assert JobItem.objects.filter(state="pending").count() == 3


def test_of_many_who_want_the_lease_one_gets_it() -> None:
    leases = [Lease() for _ in range(6)]
    got: list[bool] = []
    threads = [threading.Thread(target=lambda lease=lease: got.append(held(lease))) for lease in leases]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 5 + [True]


def held(lease: Lease) -> bool:
    from django.db import connection

    try:
        return lease.hold()
    finally:
        connection.close()


def test_a_cancelled_job_takes_no_results_any_more(ada: User) -> None:
    job = a_job(ada)
    taken, _ = write(Turn(wants={job.pk: (2, False)}), "me")
    write(Turn(outcomes=[Outcome(taken[0], True, "{}")]), "me")
    services.cancel(job)
    write(Turn(outcomes=[Outcome(taken[1], True, "{}")]), "me")

    job.refresh_from_db()
    assert (job.state, job.completed, job.cancelled, job.ended) == ("cancelled", 1, 2, 3)
    assert services.cancel(job).state == "cancelled"


def test_a_job_that_has_ended_cannot_be_cancelled(ada: User) -> None:
    job = a_job(ada, 1)
    taken, changed = write(Turn(wants={job.pk: (1, False)}), "me")
    _, changed = write(Turn(outcomes=[Outcome(taken[0], True, "{}")]), "me")
    assert end_if_done(changed[0])
    with pytest.raises(Conflict):
        services.cancel(job)


def test_what_was_tried_before_is_sent_alone_and_after_a_pause(ada: User) -> None:
    job = a_job(ada)
    taken, _ = write(Turn(wants={job.pk: (3, True)}), "me")
    write(Turn(again=[Again(item, "INFERENCE_FAILED", counts=True) for item in taken]), "me")
    assert write(Turn(wants={job.pk: (3, True)}), "me")[0] == []  # they rest
    JobItem.objects.update(not_before=timezone.now())
    assert write(Turn(wants={job.pk: (3, False)}), "me")[0] == []  # one of them is in work already
    assert [item.attempts for item in write(Turn(wants={job.pk: (3, True)}), "me")[0]] == [1]


def test_what_an_error_means() -> None:
    assert verdict(InvalidInput("no"), 0) == verdict(ModelNotFound(), 0) == "failed"
    assert verdict(InferenceFailed(), 0) == verdict(KeyError(), 0) == "again"
    assert verdict(InferenceFailed(), MAX_ATTEMPTS - 1) == "failed"
    assert verdict(RateLimitExceeded(), 99) == "later"


def test_owners_have_the_same_share_and_premium_ones_four_times_it() -> None:
    jobs = [Contender("a1", 1), Contender("a2", 1), Contender("b", 2)]
    assert shared_out(12, jobs, {}) == {"a1": 3, "a2": 3, "b": 6}
    assert shared_out(4, jobs, {"a1": 5, "a2": 5, "b": 6}) == {"b": 4}
    premium = [Contender("p", 1, weight=4), Contender("s", 2)]
    assert shared_out(10, premium, {}) == {"p": 8, "s": 2}
    assert shared_out(10, [Contender("c", 1, limit=1)], {}) == {"c": 1}


def test_a_job_is_given_up_when_its_time_is_over_or_its_key_is_gone(ada: User) -> None:
    late = a_job(ada, expires_at=timezone.now() - timedelta(seconds=1))
    key, _ = create_api_key(owner=ada, name="k", permission="write")
    keyed = a_job(ada, key=key, key_prefix=key.prefix)
    going = a_job(ada)
    assert {standing.job_id for standing in look()} == {keyed.pk, going.pk}
    revoke_api_key(key=key, actor=SERVER)
    assert [standing.job_id for standing in look()] == [going.pk]
    late.refresh_from_db()
    keyed.refresh_from_db()
    assert (late.state, late.cancelled) == ("expired", 3)
    assert keyed.error is not None
    assert (keyed.state, keyed.error["code"]) == ("failed", "AUTHENTICATION_FAILED")
    User.objects.filter(pk=ada.pk).update(is_active=False)
    assert look() == []


def test_reading_a_file_goes_on_where_it_stopped(ada: User) -> None:
    lines = b"".join(b'{"id": "%d", "text": "x"}\n' % (number % 700) for number in range(800))
    job = services.submit(caller=caller_of(ada), kind="batch_infer", model="default", input_file=a_file(ada, lines))

    assert Ingestion(job.pk).step()
    second = Ingestion(job.pk)  # another process, after a kill
    assert second.step()
    while second.step():
        pass

    job.refresh_from_db()
    assert (job.state, job.total, job.failed) == ("queued", 800, 100)
    assert list(JobItem.objects.filter(job=job).values_list("index", flat=True)) == list(range(800))


@override_settings(MAX_JOB_ITEMS=10)
def test_a_file_with_too_many_lines_fails_as_a_whole(ada: User) -> None:
    job = services.submit(
        caller=caller_of(ada), kind="batch_infer", model="", input_file=a_file(ada, b'{"text": "x"}\n' * 11)
    )
    assert not Ingestion(job.pk).step()
    job.refresh_from_db()
    assert job.error is not None
    assert (job.state, job.error["details"]["max_items"]) == ("failed", 10)


@override_settings(MAX_JOBS=2)
def test_a_caller_has_so_many_jobs_at_once(ada: User) -> None:
    for _ in range(2):
        services.submit(caller=caller_of(ada), kind="infer", model="", items=[("0", {"text": "x"})])
    with pytest.raises(RateLimitExceeded):
        services.submit(caller=caller_of(ada), kind="infer", model="", items=[("0", {"text": "x"})])


@override_settings(MAX_UPLOAD_BYTES=1_000_000, MAX_STORED_BYTES=2_000_000)
def test_uploads_are_bounded_and_leave_nothing_behind(ada: User) -> None:
    kept = files.store(caller=caller_of(ada), parts=[b"x" * 300_000] * 3, name="a", file_format="jsonl")
    assert b"".join(files.content(kept)) == b"x" * 900_000
    assert max(len(bytes(chunk.data)) for chunk in kept.chunks.all()) == files.CHUNK_BYTES
    with pytest.raises(PayloadTooLarge):
        files.store(caller=caller_of(ada), parts=[b"x" * 300_000] * 4, name="a", file_format="jsonl")
    with pytest.raises(Conflict), override_settings(MAX_STORED_BYTES=1_500_000):
        files.store(caller=caller_of(ada), parts=[b"x" * 300_000] * 3, name="a", file_format="jsonl")
    assert list(File.objects.all()) == [kept]


def test_what_has_been_kept_for_long_enough_is_dropped(ada: User) -> None:
    past = timezone.now() - timedelta(days=1)
    old = a_job(ada, state=Job.State.COMPLETED, keep_until=past)
    young = a_job(ada, state=Job.State.COMPLETED, keep_until=timezone.now() + timedelta(days=1))
    running = a_job(ada, state=Job.State.RUNNING, keep_until=past)
    a_file(ada, expires_at=past)
    needed = a_file(ada, expires_at=past)
    reading = a_job(ada, 0, state=Job.State.VALIDATING, input_file=needed)
    prune()
    assert set(Job.objects.all()) == {young, running, reading}
    assert not JobItem.objects.filter(job_id=old.pk).exists()
    assert list(File.objects.all()) == [needed]


def test_lines_are_the_same_however_the_file_is_cut() -> None:
    content = '\ufeff{"a": "ä"}\r\n\n{"b": 2}\nno\n{"c": 3}'.encode()
    for size in (1, 3, 7, 100):
        lines = list(json_lines(content[at : at + size] for at in range(0, len(content), size)))
        assert [line.number for line in lines] == [1, 3, 4, 5]
        assert [line.content for line in lines if isinstance(line.content, dict)] == [{"a": "ä"}, {"b": 2}, {"c": 3}]


@override_settings(MAX_BODY_BYTES=2000)
def test_a_line_that_is_too_long_fails_alone() -> None:
    content = b'{"a": "' + b"x" * 5000 + b'"}\n{"b": 1}'
    first, second = json_lines(content[at : at + 500] for at in range(0, len(content), 500))
    assert isinstance(first.content, InvalidInput)
    assert second.content == {"b": 1}


def test_records_of_a_table() -> None:
    table = b'text,max_tokens,temperature\n"a\nb",5,0.5\nc,,\nd,many,1\ne\n'
    first, second, third, fourth = (line.content for line in csv_lines([table]))
    assert (first, second) == ({"text": "a\nb", "max_tokens": 5, "temperature": 0.5}, {"text": "c"})
    assert isinstance(third, InvalidInput)
    assert isinstance(fourth, InvalidInput)
    for header in (b"id\n1\n", b"text,nope\n", b"text,text\n", b""):
        with pytest.raises(InvalidInput):
            list(csv_lines([header]))
