"""The ASGI application: HTTP now, websockets when they come."""

import os

import django
from channels.routing import ProtocolTypeRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")
django.setup(set_prefix=False)

from llama_gpu_site.asgi_handler import SiteHandler  # noqa: E402  # Django must be set up before it

application = ProtocolTypeRouter({"http": SiteHandler()})
