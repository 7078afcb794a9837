"""Jobs on Django's admin site."""

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Role, User
from jobs.models import Job
from tests.jobs.made import a_job

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def client(redis_url: str, settings: object) -> Client:
    settings.REDIS_URL = redis_url  # type: ignore[attr-defined]
    client = Client()
    client.force_login(User.objects.create_user("root", role=Role.ADMINISTRATOR))
    return client


def test_it_shows_how_jobs_stand_and_not_what_is_in_them(client: Client) -> None:
    job = a_job(User.objects.create_user("ada"), completed=1, started_at=timezone.now())
    for address in ("/admin/jobs/job/", f"/admin/jobs/job/{job.pk}/change/"):
        page = client.get(address).content.decode()
        assert "1 of 3" in page
        assert "prompt 0" not in page


def test_jobs_are_cancelled_there(client: Client) -> None:
    owner = User.objects.create_user("ada")
    job, over = a_job(owner), a_job(owner, state=Job.State.COMPLETED)
    data = {"action": "cancel", "_selected_action": [job.pk, over.pk]}
    page = client.post("/admin/jobs/job/", data, follow=True).content.decode()

    assert "1 jobs are cancelled." in page
    assert "has ended already" in page
    job.refresh_from_db()
    assert (job.state, job.cancelled) == ("cancelled", 3)
