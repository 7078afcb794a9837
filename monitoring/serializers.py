"""What the health doors give."""

from typing import Any

from rest_framework import serializers

_STATUSES = ["healthy", "degraded", "unhealthy"]


class CheckBody(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ok", "degraded", "failed"])
    latency = serializers.FloatField(help_text="Seconds until it answered.")


class WorkersCheckBody(CheckBody):
    alive = serializers.IntegerField(required=False, help_text="Workers that announced themselves in the last seconds.")


class EnginesCheckBody(CheckBody):
    loaded_models = serializers.IntegerField(required=False)
    failed_models = serializers.IntegerField(required=False, help_text="Not loaded anywhere, though they should be.")


class ChecksBody(serializers.Serializer[Any]):
    database = CheckBody()
    redis = CheckBody()
    workers = WorkersCheckBody()
    engines = EnginesCheckBody()
    scheduler = CheckBody()


class LiveResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    status = serializers.ChoiceField(choices=_STATUSES)
    version = serializers.CharField()
    timestamp = serializers.DateTimeField()


class HealthResponse(LiveResponse):
    checks = ChecksBody()
