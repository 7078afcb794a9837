from celery import signals
from django.apps import AppConfig


class MonitoringConfig(AppConfig):
    name = "monitoring"
    verbose_name = "Monitoring"

    def ready(self) -> None:
        from inference.record_listeners import records_added_up_by
        from monitoring import rollups, samplers
        from monitoring.tracing import install_tracer

        records_added_up_by(rollups.add)
        signals.worker_ready.connect(samplers.on_worker_ready)
        signals.worker_shutdown.connect(samplers.on_worker_shutdown)
        install_tracer()
