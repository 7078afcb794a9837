"""What the doors of jobs take in their queries, and what the OpenAPI document says of their answers."""

from typing import Any

from rest_framework import serializers

from common.serializers import StrictSerializer
from jobs.models import Job, JobItem

MAX_RESULTS = 1000
DEFAULT_RESULTS = 100


class JobsQuery(StrictSerializer):
    state = serializers.ChoiceField(choices=Job.State.choices, required=False, help_text="Only jobs in this state.")
    kind = serializers.ChoiceField(choices=Job.Kind.choices, required=False, help_text="Only jobs of this kind.")
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=1000)
    cursor = serializers.CharField(required=False, max_length=64, help_text="`next_cursor` of the page before.")


class JobQuery(StrictSerializer):
    limit = serializers.IntegerField(
        required=False,
        default=DEFAULT_RESULTS,
        min_value=0,
        max_value=MAX_RESULTS,
        help_text="How many results to show.",
    )
    after = serializers.IntegerField(
        required=False, default=-1, min_value=-1, help_text="Show those after the item of this index."
    )


class ResultsQuery(StrictSerializer):
    state = serializers.ChoiceField(
        choices=[JobItem.State.COMPLETED, JobItem.State.FAILED, JobItem.State.CANCELLED],
        required=False,
        help_text="Only the lines of items in this state.",
    )


class ForgetQuery(StrictSerializer):
    forget = serializers.BooleanField(
        required=False, default=False, help_text="Delete the job with its answers, instead of cancelling it."
    )


class ProgressBody(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()
    pending = serializers.IntegerField()
    fraction = serializers.FloatField()


class JobUsageBody(serializers.Serializer[Any]):
    prompt_tokens = serializers.IntegerField()
    tokens_generated = serializers.IntegerField()


class WaitBody(serializers.Serializer[Any]):
    """`for`: `token_budget`, `workers` or `memory`."""

    until = serializers.DateTimeField(allow_null=True)


class JobBodySchema(serializers.Serializer[Any]):
    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=Job.Kind.choices)
    state = serializers.ChoiceField(choices=Job.State.choices)
    name = serializers.CharField()
    model = serializers.CharField()
    progress = ProgressBody()
    usage = JobUsageBody()
    waits = WaitBody(allow_null=True)
    error = serializers.DictField(allow_null=True)
    metadata = serializers.DictField()
    webhook_url = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField()


class JobResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField(default=True)
    job = JobBodySchema()


class JobWithResultsResponse(JobResponse):
    results = serializers.ListField(child=serializers.DictField())
    next_after = serializers.IntegerField(allow_null=True)


class JobsResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField(default=True)
    jobs = JobBodySchema(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class WebhookSecretResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField(default=True)
    secret = serializers.CharField()
