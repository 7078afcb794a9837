"""The addresses of files and batches below /v1/."""

from django.urls import path

from jobs.openai_door.api import BatchDetail, Batches, CancelBatch, FileContent, FileDetail, Files

urlpatterns = [
    path("files", Files.as_view(), name="openai-files"),
    path("files/<str:file_id>", FileDetail.as_view(), name="openai-file"),
    path("files/<str:file_id>/content", FileContent.as_view(), name="openai-file-content"),
    path("batches", Batches.as_view(), name="openai-batches"),
    path("batches/<str:batch_id>", BatchDetail.as_view(), name="openai-batch"),
    path("batches/<str:batch_id>/cancel", CancelBatch.as_view(), name="openai-cancel-batch"),
]
