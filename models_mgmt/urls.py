"""Addresses of the model doors."""

from django.urls import path

from models_mgmt.api import ModelDetail, Models
from models_mgmt.deployment_api import FitModel, LoadModel, UnloadModel, Workers

urlpatterns = [
    path("models", Models.as_view()),
    path("models/<str:model_id>", ModelDetail.as_view()),
    path("models/<str:model_id>/fit", FitModel.as_view()),
    path("models/<str:model_id>/load", LoadModel.as_view()),
    path("models/<str:model_id>/unload", UnloadModel.as_view()),
    path("system/workers", Workers.as_view()),
]
