"""Addresses of the sign-in doors."""

from django.urls import path

from accounts.api import Login, Logout, Me, Refresh
from accounts.usage_api import Usage

urlpatterns = [
    path("auth/login", Login.as_view()),
    path("auth/refresh", Refresh.as_view()),
    path("auth/logout", Logout.as_view()),
    path("auth/me", Me.as_view()),
    path("usage", Usage.as_view()),
]
