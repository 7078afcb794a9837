"""What the door of a request's timeline gives."""

from typing import Any

from rest_framework import serializers

from common.paging import PageQuery
from inference.models import RequestRecord
from inference.timeline import STAGES


class StageBody(serializers.Serializer[Any]):
    stage = serializers.ChoiceField(choices=STAGES)
    start = serializers.FloatField(help_text="Seconds after the request's arrival.")
    seconds = serializers.FloatField()


class PluginTimeBody(serializers.Serializer[Any]):
    plugin_id = serializers.CharField()
    seconds = serializers.FloatField(help_text="In all its hooks, also those that filter the answer.")
    calls = serializers.IntegerField()
    failures = serializers.IntegerField()


class RequestItemBody(serializers.Serializer[Any]):
    item = serializers.IntegerField(help_text="Its number in a batch, from 0.")
    state = serializers.ChoiceField(choices=RequestRecord.State.values)
    finish_reason = serializers.CharField(allow_null=True)
    cancel_reason = serializers.CharField(allow_null=True)
    error_code = serializers.CharField(allow_null=True)
    backend = serializers.CharField()
    worker = serializers.CharField()
    prompt_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    tokens_generated = serializers.IntegerField()
    time_to_first_token = serializers.FloatField(allow_null=True, help_text="Seconds from arrival.")
    total_time = serializers.FloatField(help_text="Seconds from arrival to the end.")
    timeline = StageBody(many=True)
    plugins = PluginTimeBody(many=True)


class RequestBody(serializers.Serializer[Any]):
    request_id = serializers.CharField()
    kind = serializers.ChoiceField(choices=RequestRecord.Kind.values)
    model = serializers.CharField()
    user = serializers.CharField(allow_null=True)
    key = serializers.CharField(allow_null=True, help_text="The key's prefix.")
    submitted_at = serializers.DateTimeField()
    state = serializers.ChoiceField(choices=RequestRecord.State.values, help_text="The worst of its items' states.")
    items = RequestItemBody(many=True)


class RequestResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    request = RequestBody()


class RequestsQuery(PageQuery):
    id = serializers.CharField(required=False, max_length=64, help_text="A request's id, or its beginning.")
    model = serializers.CharField(required=False, max_length=200)
    state = serializers.ChoiceField(choices=RequestRecord.State.values, required=False)
    kind = serializers.ChoiceField(choices=RequestRecord.Kind.values, required=False)
    user = serializers.CharField(required=False, max_length=150, help_text="A username. Administrators only.")
    key = serializers.CharField(required=False, max_length=32, help_text="A key's prefix.")
    error_code = serializers.CharField(required=False, max_length=64)
    since = serializers.DateTimeField(required=False, help_text="Submitted at this time or later.")
    until = serializers.DateTimeField(required=False, help_text="Submitted before this time.")


class RequestSummaryBody(serializers.Serializer[Any]):
    """An ended request, or an item of a batch, in the list."""

    request_id = serializers.CharField()
    item = serializers.IntegerField(help_text="Its number in a batch, from 0.")
    kind = serializers.ChoiceField(choices=RequestRecord.Kind.values)
    model = serializers.CharField()
    user = serializers.CharField(allow_null=True)
    key = serializers.CharField(allow_null=True, help_text="The key's prefix.")
    state = serializers.ChoiceField(choices=RequestRecord.State.values)
    finish_reason = serializers.CharField(allow_null=True)
    error_code = serializers.CharField(allow_null=True)
    prompt_tokens = serializers.IntegerField()
    tokens_generated = serializers.IntegerField()
    time_to_first_token = serializers.FloatField(allow_null=True, help_text="Seconds from submission.")
    total_time = serializers.FloatField(help_text="Seconds from submission to the end.")
    submitted_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField()


class RequestsResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    requests = RequestSummaryBody(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="null after the last page.")
