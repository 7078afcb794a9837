from django.apps import AppConfig


class ModelsConfig(AppConfig):
    name = "models_mgmt"
    verbose_name = "Models"
