"""Addresses of the health doors and the pages."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from accounts.login import throttled
from monitoring.api import Health, Live, Ready
from monitoring.pages import SignIn, page_urls
from monitoring.system_api import SystemGpus, SystemLogs, SystemMetrics, SystemStatusView
from monitoring.telemetry_api import PrometheusMetrics, Requests, RequestTimeline

urlpatterns = [
    *page_urls(),
    path("sign-in", throttled(SignIn.as_view()), name="sign-in"),
    path("sign-out", LogoutView.as_view(next_page="sign-in"), name="sign-out"),
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
    path("requests", Requests.as_view(), name="requests"),
    path("requests/<str:request_id>", RequestTimeline.as_view(), name="request"),
]
