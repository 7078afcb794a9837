"""The addresses of section 3, below /api/v1/."""

from django.urls import path

from inference.api import BatchInferView, InferView, StreamInferView

urlpatterns = [
    path("infer", InferView.as_view(), name="infer"),
    path("batch_infer", BatchInferView.as_view(), name="batch-infer"),
    path("stream_infer", StreamInferView.as_view(), name="stream-infer"),
]
