"""Addresses of the health doors and the pages."""

from django.urls import path

from monitoring.api import Health, Live, Ready
from monitoring.pages import landing

urlpatterns = [
    path("", landing, name="landing"),
    path("health", Health.as_view(), name="health"),
    path("health/live", Live.as_view()),
    path("health/ready", Ready.as_view()),
]
