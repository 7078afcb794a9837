"""Every address of the site. Those under /api/ are written without a trailing slash; the middleware drops one."""

from django.contrib import admin
from django.urls import include, path

api = [
    path("", include("inference.urls")),
]

urlpatterns = [
    path("api/v1/", include(api)),
    path("admin/", admin.site.urls),
]
