from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "llama_gpu_site"
    verbose_name = "LLaMA GPU"

    def ready(self) -> None:
        from llama_gpu_site import checks  # noqa: F401  # registers them
        from llama_gpu_site.celery import app

        app.set_default()  # for the threads too: `current_app` is the importing thread's only
