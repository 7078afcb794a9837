from celery import signals
from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self) -> None:
        from inference import worker_runtime

        signals.worker_ready.connect(worker_runtime.on_worker_ready)
        signals.worker_shutting_down.connect(worker_runtime.on_worker_shutting_down)
        signals.worker_shutdown.connect(worker_runtime.on_worker_shutdown)
