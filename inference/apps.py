from celery import signals
from django.apps import AppConfig

from models_mgmt.performance import measured_by


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self) -> None:
        from inference import selectors, worker_runtime

        measured_by(selectors.model_performance)
        signals.worker_ready.connect(worker_runtime.on_worker_ready)
        signals.worker_shutting_down.connect(worker_runtime.on_worker_shutting_down)
        signals.worker_shutdown.connect(worker_runtime.on_worker_shutdown)
