"""The base of every request body."""

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from common.errors import InvalidInput


class StrictSerializer(serializers.Serializer[Any]):
    """A serializer to which an unknown field is an error: what is not supported is never ignored."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name in data:
                if name not in self.fields:
                    raise InvalidInput("This field is not known.", field=str(name)[:100])
        return super().to_internal_value(data)

    @classmethod
    def parse(cls, data: Any) -> dict[str, Any]:
        """The validated fields of a request body; raises REST framework's ValidationError or InvalidInput."""
        serializer = cls(data=data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)
