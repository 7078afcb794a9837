"""Every address of the site. Those under /api/ are written without a trailing slash; the middleware drops one."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from accounts.login import throttled
from llama_gpu_site.documentation import ApiDocs, ApiSchema
from monitoring.urls import api_urlpatterns as monitoring_api

api: list[URLPattern | URLResolver] = [
    path("", include("accounts.urls")),
    path("", include("plugins_app.urls")),
    path("", include("models_mgmt.urls")),
    path("", include("inference.urls")),
    path("", include("jobs.urls")),
    path("", include(monitoring_api)),
    path("docs", ApiDocs.as_view(), name="docs"),
    path("schema", ApiSchema.as_view(), name="schema"),
]

urlpatterns = [
    path("", include("monitoring.urls")),
    path("api/v1/", include(api)),
    path("v1/", include("inference.openai_door.urls")),
    path("v1/", include("jobs.openai_door.urls")),
    path("admin/login/", throttled(admin.site.login)),
    path("admin/", admin.site.urls),
]
