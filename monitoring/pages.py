"""Pages for browsers."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def landing(request: HttpRequest) -> HttpResponse:
    """Where a person who opens the server's address arrives."""
    return render(request, "monitoring/landing.html", {"version": settings.VERSION})
