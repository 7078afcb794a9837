"""Models on Django's admin site."""

from models_mgmt.admin import registry  # noqa: F401  # it registers itself
