"""The addresses below /v1/."""

from django.urls import path

from inference.openai_door.api import ChatCompletions, Completions, Embeddings, ListModels, RetrieveModel

urlpatterns = [
    path("models", ListModels.as_view(), name="openai-models"),
    path("models/<path:model_id>", RetrieveModel.as_view(), name="openai-model"),
    path("chat/completions", ChatCompletions.as_view(), name="openai-chat-completions"),
    path("completions", Completions.as_view(), name="openai-completions"),
    path("embeddings", Embeddings.as_view(), name="openai-embeddings"),
]
