"""Every setting of the server, read here and nowhere else. Each is described in docs/settings.md."""

import secrets
import socket
from datetime import timedelta
from pathlib import Path

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from huggingface_hub.constants import HF_HUB_CACHE

from llama_gpu_site.environment import (
    read_bool,
    read_byte_size,
    read_float,
    read_int,
    read_limits,
    read_list,
    read_memory_limit,
    read_name,
    read_networks,
    read_origins,
    read_path,
    read_str,
    read_tiers,
    read_url,
)

BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = "1.0.0"
API_VERSION = "1.0"

# ---------------------------------------------------------------- where things lie
DATA_DIR = read_path("LLAMA_GPU_DATA_DIR", BASE_DIR / "data")
MODELS_DIR = read_path("LLAMA_GPU_MODELS_DIR", DATA_DIR / "models")
# Folders that local models may be registered from, beside MODELS_DIR.
MODEL_ROOTS = [Path(root).expanduser().resolve() for root in read_list("LLAMA_GPU_MODEL_ROOTS")]
HUB_ENDPOINT = read_url("LLAMA_GPU_HUB_ENDPOINT", "https://huggingface.co", schemes=("https", "http"))
HUB_TOKEN = read_str("LLAMA_GPU_HUB_TOKEN", "")
# The cache that other programs on this host download to, too.
HUB_CACHE = read_path("LLAMA_GPU_HUB_CACHE", Path(HF_HUB_CACHE))
HUB_OFFLINE = read_bool("LLAMA_GPU_HUB_OFFLINE", default=False)
PORT = read_int("LLAMA_GPU_PORT", 5000, minimum=1, maximum=65535)
HOST = read_str("LLAMA_GPU_HOST", "127.0.0.1")
DEBUG = read_bool("LLAMA_GPU_DEBUG", default=False)


def _secret_key() -> str:
    """The configured key, or one made at the first start and kept in the data folder, readable by its owner only."""
    configured = read_str("LLAMA_GPU_SECRET_KEY", "")
    if configured:
        return configured
    path = DATA_DIR / "secret_key"
    try:
        return _kept_secret_key(path)
    except OSError as error:
        raise ImproperlyConfigured(
            f"The data folder {DATA_DIR} can't be used ({error.strerror or error}); mend that, or set "
            "LLAMA_GPU_DATA_DIR to a folder that can be written."
        ) from error


def _kept_secret_key(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(50))
        try:
            path.hardlink_to(fresh)  # the first of several processes wins; the others read what it wrote
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


SECRET_KEY = _secret_key()

# ---------------------------------------------------------------- PostgreSQL or SQLite, Redis
_SQLITE_OPTIONS = {
    "timeout": 20,
    "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
}
_DATABASE_URL = read_url(
    "DATABASE_URL",
    f"sqlite:///{DATA_DIR / 'llama_gpu.sqlite3'}",
    schemes=("postgres", "postgresql", "sqlite"),
)
DATABASES = {"default": dj_database_url.parse(_DATABASE_URL)}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = _SQLITE_OPTIONS
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# `make run` starts a private valkey-server and sets this for every process it supervises.
EMBEDDED_REDIS = not read_str("REDIS_URL", "")
REDIS_URL = read_url("REDIS_URL", "redis://127.0.0.1:6379/0", schemes=("redis", "rediss", "unix"))
REDIS_PREFIX = read_str("LLAMA_GPU_REDIS_PREFIX", "lgpu:")

# ---------------------------------------------------------------- Django
ROOT_URLCONF = "llama_gpu_site.urls"
ASGI_APPLICATION = "llama_gpu_site.asgi.application"
AUTH_USER_MODEL = "accounts.User"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
ALLOWED_HOSTS = [*LOCAL_HOSTS, *read_list("LLAMA_GPU_ALLOWED_HOSTS")]
TRUSTED_PROXIES = read_networks("LLAMA_GPU_TRUSTED_PROXIES")
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = False  # the pages are in English
FORMAT_MODULE_PATH = ["llama_gpu_site.formats"]
APPEND_SLASH = True  # for pages; API paths take both forms without a redirect
INSTALLED_APPS = [
    "llama_gpu_site",
    "accounts.apps.AccountsConfig",
    "plugins_app",
    "models_mgmt",
    "inference",
    "jobs",
    "monitoring",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "accounts.apps.AdminSiteConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "common.middleware.ApiMiddleware",
    "common.page_middleware.PageSecurity",
    "common.page_middleware.PageStatics",
    "common.page_middleware.PageSession",
    "common.page_middleware.PageCommon",
    "common.page_middleware.PageCsrf",
    "common.page_middleware.PageAuthentication",
    "common.page_middleware.PageMessages",
    "common.page_middleware.PageFraming",
]
# ---------------------------------------------------------------- what browsers are told
# Set where a proxy in front speaks TLS. It must be one of TRUSTED_PROXIES: of others the header is dropped.
TLS = read_bool("LLAMA_GPU_TLS", default=False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = TLS
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if TLS else 0
SESSION_ENGINE = "accounts.sessions"
SESSION_COOKIE_AGE = 12 * 3600
PAGE_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
# Other sites whose pages may call the API.
CORS_ORIGINS = read_origins("LLAMA_GPU_CORS_ORIGINS")
SILENCED_SYSTEM_CHECKS = [
    # Django's middlewares are there, as the subclasses in common.page_middleware; llama_gpu_site.checks has the rest.
    "security.W001",
    "security.W002",
    "security.W003",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # the files lie in the packages; nothing is collected
STATICFILES_DIRS = [BASE_DIR / "static"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}", "OPTIONS": options}
    for name, options in (
        ("UserAttributeSimilarityValidator", {"user_attributes": ("username", "email")}),
        ("MinimumLengthValidator", {"min_length": 10}),
        ("CommonPasswordValidator", {}),
        ("NumericPasswordValidator", {}),
    )
]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL], "prefix": f"{REDIS_PREFIX}channels"},
    },
}

# ---------------------------------------------------------------- API
MAX_BODY_BYTES = read_int("LLAMA_GPU_MAX_BODY_BYTES", 4 * 1024 * 1024, minimum=1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
MAX_TEXT_LENGTH = read_int("LLAMA_GPU_MAX_TEXT_LENGTH", 4096, minimum=1)
MAX_BATCH_ITEMS = read_int("LLAMA_GPU_MAX_BATCH_ITEMS", 128, minimum=1)
ANONYMOUS_PERMISSION = read_str("LLAMA_GPU_ANONYMOUS_PERMISSION", "none", choices=("none", "read", "write"))
REST_FRAMEWORK = {
    # accounts.doors.Door authenticates, limits and permits; the framework's own steps would each cost a thread.
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "common.negotiation.JSONNegotiation",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["common.parsers.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "common.openapi.DoorSchema",
    "EXCEPTION_HANDLER": "common.exception_handler.handle_exception",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,  # an unknown parameter is refused, `format` too
}
SPECTACULAR_SETTINGS = {
    "TITLE": "LLaMA GPU API",
    "VERSION": API_VERSION,
    "DESCRIPTION": "Shared, governed inference for LLaMA-family models.",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "TAGS": [
        {"name": name}
        for name in (
            "Inference",
            "Jobs",
            "OpenAI-compatible",
            "Models",
            "Plugins",
            "System",
            "Authentication",
            "Users",
            "Keys",
            "Audit",
            "Health",
        )
    ],
    # Not the usual hook: choices stay where they are used, since shared enum components would clash.
    "POSTPROCESSING_HOOKS": ["common.json_schema.as_openapi_3_0"],
    "APPEND_COMPONENTS": {
        "securitySchemes": {
            "Bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a token of /auth/login."},
            "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
        }
    },
}
ACCESS_TOKEN_SECONDS = 3600
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(seconds=ACCESS_TOKEN_SECONDS),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=7),
    "USER_ID_FIELD": "username",
}
# Requests per window by endpoint group: (with credentials, without, the window's seconds).
RATE_LIMITS = read_limits(
    "LLAMA_GPU_RATE_LIMITS",
    {
        "infer": (1000, 100, 3600),
        "batch_infer": (100, 10, 3600),
        "stream_infer": (500, 50, 3600),
        "system": (6000, 600, 3600),
        "models": (1000, 100, 3600),
        "plugins": (500, 50, 3600),
        "jobs": (6000, 600, 3600),
        "accounts": (1000, 100, 3600),
        "auth": (6000, 600, 3600),
    },
)
INFERENCE_GROUPS = ("infer", "batch_infer", "stream_infer")
# What a key's tier multiplies the limits by: (in the inference groups, in the others), and whether it goes first.
TIERS = read_tiers("LLAMA_GPU_TIERS", {"standard": (1.0, 1.0, False), "premium": (10.0, 5.0, True)})
LOGIN_ATTEMPTS_PER_MINUTE = read_int("LLAMA_GPU_LOGIN_ATTEMPTS_PER_MINUTE", 10, minimum=1)
BAD_CREDENTIALS_PER_MINUTE = read_int("LLAMA_GPU_BAD_CREDENTIALS_PER_MINUTE", 30, minimum=1)
AUDIT_DAYS = read_float("LLAMA_GPU_AUDIT_DAYS", 365.0, minimum=0, maximum=36_500)

# ---------------------------------------------------------------- inference
REQUEST_TIMEOUT = read_float("LLAMA_GPU_REQUEST_TIMEOUT", 600.0, minimum=1)
MAX_QUEUE = read_int("LLAMA_GPU_MAX_QUEUE", 256, minimum=1)
# What standard requests may take of it, and premium ones while standard ones wait.
QUEUE_SHARE = read_float("LLAMA_GPU_QUEUE_SHARE", 0.8, minimum=0.5, maximum=1)
# Of a completion without a max_tokens, which would fill the context, for a key with a token budget.
BUDGETED_MAX_TOKENS = read_int("LLAMA_GPU_BUDGETED_MAX_TOKENS", 2048, minimum=1)
AUTOLOAD = read_bool("LLAMA_GPU_AUTOLOAD", default=True)
SHARED_PREFIX_CACHE = read_bool("LLAMA_GPU_SHARED_PREFIX_CACHE", default=False)
# Of what watchers send: subscriptions, and the answers to pings.
MAX_SOCKET_MESSAGE_BYTES = 64 * 1024
MAX_WATCHERS = read_int("LLAMA_GPU_MAX_WATCHERS", 2000, minimum=1)
EVENT_TEXT_CHARACTERS = read_int("LLAMA_GPU_EVENT_TEXT_CHARACTERS", 8192, minimum=0, maximum=65_536)
SSE_KEEP_ALIVE_SECONDS = read_float("LLAMA_GPU_SSE_KEEP_ALIVE", 10.0, minimum=0.1)
SLOW_READER_SECONDS = read_float("LLAMA_GPU_SLOW_READER_SECONDS", 30.0, minimum=0.1)
STREAM_BUFFER_EVENTS = read_int("LLAMA_GPU_STREAM_BUFFER_EVENTS", 4096, minimum=16)
# `demo` is the bundled model; `echo` the deterministic runner for tests and gateway benchmarks.
DEFAULT_MODEL = read_str("LLAMA_GPU_DEFAULT_MODEL", "demo")
DEFAULT_MODEL_IS_SET = bool(read_str("LLAMA_GPU_DEFAULT_MODEL", ""))
ENGINE_MAX_SEQUENCES = read_int("LLAMA_GPU_MAX_SEQUENCES", 32, minimum=1, maximum=1024)
ENGINE_PREFILL_CHUNK = read_int("LLAMA_GPU_PREFILL_CHUNK", 512, minimum=16)
# Bytes of each model's KV cache; 0: as many as its context and its sequences ask for.
ENGINE_KV_CACHE = read_byte_size("LLAMA_GPU_KV_CACHE")
ENGINE_THREADS = read_int("LLAMA_GPU_ENGINE_THREADS", 0, minimum=0, maximum=1024)
ENGINE_QUANTIZATION = read_str(
    "LLAMA_GPU_QUANTIZATION", "auto", choices=("auto", "fp32", "bf16", "fp16", "int8", "int4")
)
# Idle models are unloaded after so many seconds; 0 keeps them.
KEEP_ALIVE = read_float("LLAMA_GPU_KEEP_ALIVE", 0.0, minimum=0)
EVICT = read_bool("LLAMA_GPU_EVICT", default=False)
# How long a load waits for room that models in use, or those being unloaded, are about to give.
ROOM_WAIT = read_float("LLAMA_GPU_ROOM_WAIT", 30.0, minimum=0)
# How much of each device all engines together may take: `80%` or `12GB`; empty: all of it.
MAX_MEMORY = read_memory_limit("LLAMA_GPU_MAX_MEMORY")
LOAD_TIMEOUT = read_float("LLAMA_GPU_LOAD_TIMEOUT", 1800.0, minimum=1)
LOAD_RETRY_SECONDS = read_float("LLAMA_GPU_LOAD_RETRY_SECONDS", 30.0, minimum=0)
ENGINE_STALL_SECONDS = read_float("LLAMA_GPU_ENGINE_STALL_SECONDS", 120.0, minimum=0)
ECHO_DELAY_SECONDS = read_float("LLAMA_GPU_ECHO_DELAY", 0.0, minimum=0)

# ---------------------------------------------------------------- jobs
MAX_JOB_ITEMS = read_int("LLAMA_GPU_MAX_JOB_ITEMS", 50_000, minimum=1)
MAX_UPLOAD_BYTES = read_int("LLAMA_GPU_MAX_UPLOAD_BYTES", 100 * 1024 * 1024, minimum=1024)
# Of one user's uploads together.
MAX_STORED_BYTES = read_int("LLAMA_GPU_MAX_STORED_BYTES", 1024 * 1024 * 1024, minimum=1024)
# Of one key, or of one user without a key, that have not ended.
MAX_JOBS = read_int("LLAMA_GPU_MAX_JOBS", 20, minimum=1)
# What has not ended after so long is given up.
JOB_HOURS = read_float("LLAMA_GPU_JOB_HOURS", 24.0, minimum=0.01)
KEEP_JOBS_DAYS = read_float("LLAMA_GPU_KEEP_JOBS_DAYS", 30.0, minimum=0)
# Networks that webhooks may go to although they are not public.
WEBHOOK_NETWORKS = read_networks("LLAMA_GPU_WEBHOOK_NETWORKS")
WEBHOOK_TIMEOUT_SECONDS = 10.0

# ---------------------------------------------------------------- monitoring
SAMPLE_SECONDS = read_float("LLAMA_GPU_SAMPLE_SECONDS", 5.0, minimum=0.5, maximum=60)
# The spans of time, in seconds, that figures of requests are added up for.
METRICS_GRANULARITIES = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600}
METRICS_TIMEFRAMES = {"1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600, "7d": 7 * 24 * 3600}
# For so long the answers of finished hours are kept ready.
PACKED_SECONDS = max(METRICS_TIMEFRAMES.values())
# How long things are kept; 0: for good.
KEEP_SAMPLES_HOURS = read_float("LLAMA_GPU_KEEP_SAMPLES_HOURS", 24.0, minimum=0)
KEEP_METRICS_DAYS = read_float("LLAMA_GPU_KEEP_METRICS_DAYS", 90.0, minimum=0)
KEEP_RECORDS_DAYS = read_float("LLAMA_GPU_KEEP_RECORDS_DAYS", 90.0, minimum=0)
KEEP_LOGS_DAYS = read_float("LLAMA_GPU_KEEP_LOGS_DAYS", 7.0, minimum=0)
PRUNE_SECONDS = 600.0
PACK_SECONDS = 60.0
FORGET_SECONDS = 30.0
# Who may read /metrics: callers with this permission, everybody (`open`), or nobody (`off`).
METRICS_ACCESS = read_str("LLAMA_GPU_METRICS_ACCESS", "read", choices=("read", "admin", "open", "off"))
# Where traces are sent to, by OTLP over HTTP; empty: nowhere.
OTLP_ENDPOINT = ""
if read_str("LLAMA_GPU_OTLP_ENDPOINT", ""):
    OTLP_ENDPOINT = read_url("LLAMA_GPU_OTLP_ENDPOINT", "", schemes=("http", "https"))
# The share of requests that are traced, of those that come without a trace of their own.
TRACE_SHARE = read_float("LLAMA_GPU_TRACE_SHARE", 1.0, minimum=0, maximum=1)

# ---------------------------------------------------------------- workers
# Take up loads and unloads, which then go on by themselves.
CONTROL_THREADS = 2
LOADS_AT_ONCE = 4
UPKEEP_SECONDS = 2.0
# Four turns missed: it is gone, or so busy that it could as well be.
SCHEDULER_LOST_SECONDS = 4 * UPKEEP_SECONDS
WORKER_THREADS = read_int("LLAMA_GPU_WORKER_THREADS", 320, minimum=1)
# The device of this worker process: `cpu`, `cuda0`, `mps`; empty in every other process.
WORKER_DEVICE = read_str("LLAMA_GPU_DEVICE", "")
# What workers call the host that they are on; no two hosts may have one name.
WORKER_HOST = read_name("LLAMA_GPU_WORKER_HOST", socket.gethostname())
# How long a worker that is told to end lets its running requests go on.
DRAIN_SECONDS = read_float("LLAMA_GPU_DRAIN_SECONDS", 10.0, minimum=0)
WORKER_HEARTBEAT_SECONDS = 0.5
WORKER_LOST_SECONDS = 3.0
CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = "maintenance"
CELERY_BEAT_SCHEDULE = {
    "deployments": {
        "task": "models_mgmt.tasks.keep_deployments",
        "schedule": UPKEEP_SECONDS,
        "options": {"expires": 10 * UPKEEP_SECONDS},
    },
    "prune": {
        "task": "monitoring.tasks.prune",
        "schedule": PRUNE_SECONDS,
        "options": {"expires": PRUNE_SECONDS},
    },
    "completions": {
        "task": "monitoring.tasks.forget_completions",
        "schedule": FORGET_SECONDS,
        "options": {"expires": FORGET_SECONDS},
    },
    "pack": {"task": "monitoring.tasks.pack", "schedule": PACK_SECONDS, "options": {"expires": PACK_SECONDS}},
    "jobs": {"task": "jobs.tasks.prune", "schedule": PRUNE_SECONDS, "options": {"expires": PRUNE_SECONDS}},
    "audit": {"task": "accounts.tasks.prune_audit", "schedule": PRUNE_SECONDS, "options": {"expires": PRUNE_SECONDS}},
}
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": REDIS_PREFIX,
    "priority_steps": [0, 3, 6, 9],
    "queue_order_strategy": "priority",
    "sep": ":",
    "visibility_timeout": int(REQUEST_TIMEOUT) + 3600,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
}

# ---------------------------------------------------------------- what `manage.py up` starts and sets up
DEVICES = read_list("LLAMA_GPU_DEVICES")
WEB_PROCESSES = read_int("LLAMA_GPU_WEB_PROCESSES", 1, minimum=1, maximum=64)
ADMIN_PASSWORD = read_str("LLAMA_GPU_ADMIN_PASSWORD", "")
API_KEY = read_str("LLAMA_GPU_API_KEY", "")

# ---------------------------------------------------------------- logging
LOG_LEVEL = read_str("LLAMA_GPU_LOG_LEVEL", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
LOG_FORMAT = read_str("LLAMA_GPU_LOG_FORMAT", "text", choices=("text", "json"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "common.logging.RequestIdFilter"}},
    "formatters": {
        "text": {"()": "common.logging.TextFormatter"},
        "json": {"()": "common.logging.JSONFormatter"},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["request_id"]},
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "celery": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "django.channels.server": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
    },
}
