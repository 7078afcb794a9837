from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from inference.deferral import deferred_to
        from jobs.taking import take

        deferred_to(take)
