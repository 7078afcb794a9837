"""Addresses of the plugin doors."""

from django.urls import path

from plugins_app.api import PluginConfig, PluginDetail, PluginLoad, Plugins, PluginUnload

urlpatterns = [
    path("plugins", Plugins.as_view()),
    path("plugins/<str:plugin_id>", PluginDetail.as_view()),
    path("plugins/<str:plugin_id>/load", PluginLoad.as_view()),
    path("plugins/<str:plugin_id>/unload", PluginUnload.as_view()),
    path("plugins/<str:plugin_id>/config", PluginConfig.as_view()),
]
