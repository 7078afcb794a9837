"""Users, keys, usage and the audit on Django's admin site."""

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin  # noqa: F401  # what is unregistered below must be registered before
from django.contrib.auth.models import Group

from accounts.admin import audit, keys, usage, users  # noqa: F401  # they register themselves

if admin.site.is_registered(Group):
    admin.site.unregister(Group)  # roles do what groups are for
