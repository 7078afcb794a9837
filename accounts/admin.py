"""Users and keys on Django's admin site."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest

from accounts.models import ApiKey, User

admin.site.unregister(Group)  # roles do what groups are for


@admin.register(User)
class UserAdmin(DjangoUserAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    list_display = ("username", "role", "is_active", "last_login")
    list_filter = ("role", "is_active")
    fieldsets = ((None, {"fields": ("username", "password", "role", "is_active", "email")}),)
    filter_horizontal = ()
    add_fieldsets = ((None, {"fields": ("username", "usable_password", "password1", "password2", "role")}),)


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # as above
    """Keys can be narrowed and revoked here, not made: a key is shown only where the API makes it."""

    list_display = ("name", "prefix", "owner", "permission", "tier", "expires_at", "revoked_at", "last_used_at")
    list_filter = ("permission", "tier")
    list_select_related = ("owner",)
    search_fields = ("name", "prefix", "owner__username")
    fields = ("name", "prefix", "owner", "permission", "tier", "expires_at", "revoked_at", "created_at", "last_used_at")
    readonly_fields = ("prefix", "owner", "created_at", "last_used_at", "revoked_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False
