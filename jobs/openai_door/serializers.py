"""The queries of /v1/files and /v1/batches."""

from rest_framework import serializers

from common.serializers import StrictSerializer
from jobs.models import File


class BatchesQuery(StrictSerializer):
    limit = serializers.IntegerField(required=False, default=20, min_value=1, max_value=100)
    after = serializers.CharField(required=False, max_length=64, help_text="The last batch of the page before.")


class FilesQuery(StrictSerializer):
    limit = serializers.IntegerField(required=False, default=10_000, min_value=1, max_value=10_000)
    after = serializers.CharField(required=False, max_length=64, help_text="The last file of the page before.")
    order = serializers.ChoiceField(choices=["asc", "desc"], required=False, default="desc")
    purpose = serializers.ChoiceField(choices=File.Purpose.choices, required=False)
