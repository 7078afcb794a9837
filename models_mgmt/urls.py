"""Addresses of the model doors."""

from django.urls import path

from models_mgmt.api import ModelDetail, Models

urlpatterns = [
    path("models", Models.as_view()),
    path("models/<str:model_id>", ModelDetail.as_view()),
]
