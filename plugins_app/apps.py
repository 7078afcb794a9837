from django.apps import AppConfig


class PluginsConfig(AppConfig):
    name = "plugins_app"
    verbose_name = "Plugins"
