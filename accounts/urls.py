"""Addresses of sign-in, users, keys and the audit, below /api/v1/."""

from django.urls import path

from accounts.api import (
    Audit,
    KeyDetail,
    KeyRotation,
    Keys,
    Login,
    Logout,
    Me,
    OwnPassword,
    Refresh,
    UserDetail,
    UserPassword,
    Users,
)
from accounts.key_limits_api import KeyLimits
from accounts.usage_api import Usage

urlpatterns = [
    path("auth/login", Login.as_view()),
    path("auth/refresh", Refresh.as_view()),
    path("auth/logout", Logout.as_view()),
    path("auth/me", Me.as_view()),
    path("auth/password", OwnPassword.as_view()),
    path("users", Users.as_view()),
    path("users/<str:username>", UserDetail.as_view()),
    path("users/<str:username>/password", UserPassword.as_view()),
    path("keys", Keys.as_view()),
    path("keys/<int:key_id>", KeyDetail.as_view()),
    path("keys/<int:key_id>/limits", KeyLimits.as_view()),
    path("keys/<int:key_id>/rotate", KeyRotation.as_view()),
    path("audit", Audit.as_view()),
    path("usage", Usage.as_view()),
]
