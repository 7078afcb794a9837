"""The addresses of jobs, below /api/v1/."""

from django.urls import path

from jobs.api import JobDetail, JobEvents, JobResults, Jobs, WebhookSecret

urlpatterns = [
    path("jobs", Jobs.as_view(), name="jobs"),
    path("webhooks/secret", WebhookSecret.as_view(), name="webhook-secret"),
    path("jobs/<str:job_id>", JobDetail.as_view(), name="job"),
    path("jobs/<str:job_id>/results", JobResults.as_view(), name="job-results"),
    path("jobs/<str:job_id>/events", JobEvents.as_view(), name="job-events"),
]
