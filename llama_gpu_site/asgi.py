"""The ASGI application: HTTP now, websockets when they come."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

application = ProtocolTypeRouter({"http": get_asgi_application()})
