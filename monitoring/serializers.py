"""What the health doors give."""

from typing import Any

from rest_framework import serializers

_STATUSES = ["healthy", "unhealthy"]


class CheckBody(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ok", "failed"])
    latency = serializers.FloatField(help_text="Seconds until it answered.")


class WorkersCheckBody(CheckBody):
    alive = serializers.IntegerField(required=False, help_text="Workers that announced themselves in the last seconds.")
    loaded_models = serializers.IntegerField(required=False)


class ChecksBody(serializers.Serializer[Any]):
    database = CheckBody()
    redis = CheckBody()
    workers = WorkersCheckBody()


class LiveResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    status = serializers.ChoiceField(choices=_STATUSES)
    version = serializers.CharField()
    timestamp = serializers.DateTimeField()


class HealthResponse(LiveResponse):
    checks = ChecksBody()
