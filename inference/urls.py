"""Addresses of the inference doors."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
