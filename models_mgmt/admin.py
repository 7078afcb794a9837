"""The registry of models on Django's admin site."""

from django.contrib import admin

from models_mgmt.deployment_admin import load_models, unload_models
from models_mgmt.models import Model


@admin.register(Model)
class ModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    list_display = ("id", "name", "size", "type", "source_kind", "is_default", "enabled")
    list_filter = ("type", "source_kind", "enabled")
    search_fields = ("id", "name")
    actions = (load_models, unload_models)
    readonly_fields = ("created_at",)
