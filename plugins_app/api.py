"""The plugin doors: section 5."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from channels.db import DatabaseSyncToAsync
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.audit import calling
from accounts.doors import Door
from common.envelope import success
from common.openapi import ErrorResponseBody
from plugins_app.selectors import all_plugins, find_plugin
from plugins_app.serializers import (
    ConfigurePluginRequest,
    ConfigurePluginResponse,
    LoadPluginRequest,
    LoadPluginResponse,
    PluginResponse,
    PluginsResponse,
    UnloadPluginResponse,
    plugin_body,
    summary_body,
)
from plugins_app.services import configure_plugin, load_plugin, unload_plugin

R = TypeVar("R")

_PLUGIN_ID = OpenApiParameter("plugin_id", str, OpenApiParameter.PATH, description="The id of an installed plugin.")
_NOT_FOUND = OpenApiResponse(response=ErrorResponseBody, description="PLUGIN_NOT_FOUND")
_LOAD_FAILED = OpenApiResponse(response=ErrorResponseBody, description="PLUGIN_LOAD_FAILED")
_CONFIG: dict[str, Any] = {
    "config": {"enabled": True, "priority": 10, "settings": {"rules": [{"words": ["secret plan"], "action": "redact"}]}}
}
_EXAMPLE = OpenApiExample("A configuration of response_filter", value=_CONFIG, request_only=True)


async def _in_own_thread(work: Callable[[], R]) -> R:
    """What a plugin does while it is imported and set up must not hold up the thread that all others share."""
    result: R = await DatabaseSyncToAsync(work, thread_sensitive=False)()
    return result


class PluginDoor(Door):
    limit_group = "plugins"

    @property
    def _is_administrator(self) -> bool:
        return "admin" in self.caller.permissions


class Plugins(PluginDoor):
    @extend_schema(operation_id="list_plugins", tags=["Plugins"], responses=PluginsResponse)
    async def get(self, request: Request) -> Response:
        """The plugins that are installed, and which of them are loaded."""
        plugins = await _in_own_thread(all_plugins)
        return Response(
            success(
                plugins=[summary_body(known) for known in plugins],
                total_plugins=len(plugins),
                loaded_plugins=sum(known.status == "loaded" for known in plugins),
            )
        )


class PluginDetail(PluginDoor):
    @extend_schema(
        operation_id="get_plugin",
        tags=["Plugins"],
        parameters=[_PLUGIN_ID],
        responses={200: PluginResponse, 404: _NOT_FOUND},
    )
    async def get(self, request: Request, plugin_id: str) -> Response:
        """Everything that is known about one plugin."""
        known = await _in_own_thread(partial(find_plugin, plugin_id))
        return Response(success(plugin=plugin_body(known, for_administrator=self._is_administrator)))


class PluginLoad(PluginDoor):
    permission = "admin"

    @extend_schema(
        operation_id="load_plugin",
        tags=["Plugins"],
        parameters=[_PLUGIN_ID],
        request=LoadPluginRequest,
        responses={200: LoadPluginResponse, 404: _NOT_FOUND, 500: _LOAD_FAILED},
        examples=[_EXAMPLE],
    )
    async def post(self, request: Request, plugin_id: str) -> Response:
        """Load an installed plugin; every worker runs it within a second, for the requests that begin then."""
        config = LoadPluginRequest.parse(request.data).get("config")
        known = await _in_own_thread(
            partial(load_plugin, plugin_id=plugin_id, config=config, actor=calling(self.caller, request))
        )
        body = plugin_body(known, for_administrator=True)
        return Response(success(message="Plugin loaded successfully", plugin=body))


class PluginUnload(PluginDoor):
    permission = "admin"

    @extend_schema(
        operation_id="unload_plugin",
        tags=["Plugins"],
        parameters=[_PLUGIN_ID],
        responses={200: UnloadPluginResponse, 404: _NOT_FOUND},
    )
    async def delete(self, request: Request, plugin_id: str) -> Response:
        """Take a plugin out of use. Requests that run with it keep it to their end; its configuration is kept."""
        await _in_own_thread(partial(unload_plugin, plugin_id=plugin_id, actor=calling(self.caller, request)))
        return Response(success(message="Plugin unloaded successfully", plugin_id=plugin_id))


class PluginConfig(PluginDoor):
    permission = "admin"

    @extend_schema(
        operation_id="configure_plugin",
        tags=["Plugins"],
        parameters=[_PLUGIN_ID],
        request=ConfigurePluginRequest,
        responses={200: ConfigurePluginResponse, 404: _NOT_FOUND, 500: _LOAD_FAILED},
        examples=[_EXAMPLE],
    )
    async def put(self, request: Request, plugin_id: str) -> Response:
        """Change a plugin's configuration, loaded or not. What is left out stays; `settings` is replaced whole."""
        config = ConfigurePluginRequest.parse(request.data)["config"]
        known = await _in_own_thread(
            partial(configure_plugin, plugin_id=plugin_id, config=config, actor=calling(self.caller, request))
        )
        return Response(success(message="Plugin configuration updated", config=known.row.config))
