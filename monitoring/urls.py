"""Addresses of the health doors and the pages."""

from django.urls import path

from monitoring.api import Health, Live, Ready
from monitoring.pages import landing
from monitoring.system_api import SystemGpus, SystemLogs, SystemMetrics, SystemStatusView
from monitoring.telemetry_api import PrometheusMetrics, RequestTimeline

urlpatterns = [
    path("", landing, name="landing"),
    path("health", Health.as_view(), name="health"),
    path("health/live", Live.as_view()),
    path("health/ready", Ready.as_view()),
    path("metrics", PrometheusMetrics.as_view(), name="metrics"),
]

# Below /api/v1/.
api_urlpatterns = [
    path("system/status", SystemStatusView.as_view(), name="system-status"),
    path("system/gpu", SystemGpus.as_view(), name="system-gpu"),
    path("system/metrics", SystemMetrics.as_view(), name="system-metrics"),
    path("system/logs", SystemLogs.as_view(), name="system-logs"),
    path("requests/<str:request_id>", RequestTimeline.as_view(), name="request"),
]
