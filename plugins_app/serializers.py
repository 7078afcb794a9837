"""What the plugin doors take and give."""

from typing import Any, get_args

from rest_framework import serializers

from common.serializers import StrictSerializer
from plugins_app.hookspecs import Category
from plugins_app.models import Plugin
from plugins_app.selectors import KnownPlugin


class PluginConfigRequest(StrictSerializer):
    """A configuration, or the part of it that is to change."""

    enabled = serializers.BooleanField(required=False, help_text="A loaded plugin that is not enabled is passed by.")
    priority = serializers.IntegerField(required=False, help_text="Lower runs first.")
    settings = serializers.DictField(required=False, help_text="As the plugin's settings_schema says; replaced whole.")
    on_error = serializers.ChoiceField(
        required=False,
        choices=Plugin.OnError.values,
        help_text="What a failure of the plugin means: `open` goes on without it, `closed` fails the request.",
    )
    slow_seconds = serializers.FloatField(
        required=False, help_text="A plugin that takes longer in one request is warned of."
    )
    timeout_seconds = serializers.FloatField(
        required=False, help_text="A call that takes longer has failed; for plugins that are not built in."
    )
    max_failures = serializers.IntegerField(required=False, help_text="So many failures in a row switch it off.")
    retry_seconds = serializers.FloatField(
        required=False, help_text="After so long one request tries it again; 0: never."
    )

    def to_internal_value(self, data: Any) -> Any:
        for name, value in data.items() if isinstance(data, dict) else ():
            self._check_type(name, value)
        return super().to_internal_value(data)

    def _check_type(self, name: str, value: Any) -> None:
        """The framework takes "1" for 1 and "yes" for true; here a type is a type."""
        field = self.fields.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(field, serializers.BooleanField) and not isinstance(value, bool):
            raise serializers.ValidationError({name: ["Must be true or false."]})
        if isinstance(field, serializers.IntegerField | serializers.FloatField) and not is_number:
            raise serializers.ValidationError({name: ["Must be a number."]})


class LoadPluginRequest(StrictSerializer):
    config = PluginConfigRequest(required=False)


class ConfigurePluginRequest(StrictSerializer):
    config = PluginConfigRequest()


class PluginSummaryBody(serializers.Serializer[Any]):
    """A plugin in the list. `package`: `built-in`, or what brings it and its version."""

    id = serializers.CharField()
    name = serializers.CharField()
    version = serializers.CharField()
    status = serializers.ChoiceField(choices=["available", "loaded", "failed"])
    category = serializers.ChoiceField(choices=get_args(Category))
    author = serializers.CharField()
    description = serializers.CharField()
    package = serializers.CharField()
    enabled = serializers.BooleanField()
    priority = serializers.IntegerField()


class PluginConfigBody(serializers.Serializer[Any]):
    enabled = serializers.BooleanField()
    priority = serializers.IntegerField()
    settings = serializers.DictField(help_text="For administrators only.", required=False)
    on_error = serializers.ChoiceField(choices=Plugin.OnError.values)
    slow_seconds = serializers.FloatField()
    timeout_seconds = serializers.FloatField()
    max_failures = serializers.IntegerField()
    retry_seconds = serializers.FloatField()


class PluginCircuitBody(serializers.Serializer[Any]):
    """Whether the plugin is called, or switched off after failures."""

    state = serializers.ChoiceField(choices=["closed", "open", "half_open"])
    opened_at = serializers.DateTimeField(allow_null=True)
    last_error = serializers.CharField(help_text="For administrators only.", required=False)
    last_error_at = serializers.DateTimeField(allow_null=True)


class PluginBody(PluginSummaryBody):
    """A plugin with all that is known about it."""

    api_version = serializers.CharField()
    settings_schema = serializers.DictField(help_text="A JSON Schema.")
    config = PluginConfigBody()
    circuit = PluginCircuitBody()
    load_time = serializers.FloatField(allow_null=True, help_text="Seconds that setting it up took.")
    loaded_at = serializers.DateTimeField(allow_null=True)


class PluginsResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    plugins = PluginSummaryBody(many=True)
    total_plugins = serializers.IntegerField()
    loaded_plugins = serializers.IntegerField()


class PluginResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    plugin = PluginBody()


class LoadPluginResponse(PluginResponse):
    message = serializers.CharField()


class UnloadPluginResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()
    plugin_id = serializers.CharField()


class ConfigurePluginResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()
    config = PluginConfigBody()


def summary_body(known: KnownPlugin) -> dict[str, Any]:
    info = known.installed.info
    return {
        "id": info.id,
        "name": info.name,
        "version": info.version,
        "status": known.status,
        "category": info.category,
        "author": info.author,
        "description": info.description,
        "package": known.installed.package,
        "enabled": known.row.enabled,
        "priority": known.row.priority,
    }


def plugin_body(known: KnownPlugin, *, for_administrator: bool) -> dict[str, Any]:
    """Settings may hold a service's password, and errors what the plugin pleases: both are for administrators."""
    config, circuit = known.row.config, known.circuit()
    if not for_administrator:
        del config["settings"], circuit["last_error"]
    info = known.installed.info
    return summary_body(known) | {
        "api_version": info.api_version,
        "settings_schema": info.settings_schema,
        "config": config,
        "circuit": circuit,
        "load_time": known.row.load_time,
        "loaded_at": known.row.loaded_at,
    }
