"""Everything that is counted, by its name for Prometheus. Units are seconds, bytes, tokens."""

from common.metrics import Counter, Histogram
from engine.messages import BATCH_BOUNDS, TOKEN_GAP_BOUNDS

_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_MODEL = ("model",)

# ---------------------------------------------------------------- HTTP
HTTP_REQUESTS = Counter(
    "llama_gpu_http_requests_total",
    "Answered requests; 499 stands for those whose client left before the answer began.",
    ("method", "route", "code"),
)
HTTP_SECONDS = Histogram(
    "llama_gpu_http_request_duration_seconds",
    "From a request's arrival to the beginning of its answer.",
    ("route",),
    _LONG,
)
RATE_LIMITED = Counter(
    "llama_gpu_rate_limit_exceeded_total",
    "Requests refused by a rate limit, or for a spent token budget.",
    ("group", "caller"),
)
QUEUE_FULL = Counter("llama_gpu_queue_full_total", "Requests refused because the model's queue was full.", _MODEL)

# ---------------------------------------------------------------- inference
REQUESTS = Counter(
    "llama_gpu_inference_requests_total", "Ended requests; each item of a batch is one.", ("model", "kind", "state")
)
ERRORS = Counter("llama_gpu_inference_errors_total", "Failed requests by their error's code.", ("model", "code"))
PROMPT_TOKENS = Counter("llama_gpu_prompt_tokens_total", "Tokens read.", _MODEL)
CACHED_TOKENS = Counter("llama_gpu_prompt_tokens_cached_total", "Of the tokens read, those not computed anew.", _MODEL)
COMPLETION_TOKENS = Counter("llama_gpu_completion_tokens_total", "Tokens generated.", _MODEL)
QUEUE_SECONDS = Histogram(
    "llama_gpu_queue_duration_seconds", "From submission to a worker to the first step of the prefill.", _MODEL, _LONG
)
FIRST_TOKEN_SECONDS = Histogram(
    "llama_gpu_time_to_first_token_seconds", "From a request's arrival to its first token.", _MODEL, _LONG
)
REQUEST_SECONDS = Histogram(
    "llama_gpu_inference_duration_seconds", "From arrival to the end, of completed requests.", _MODEL, _LONG
)
TOKEN_GAP_SECONDS = Histogram(
    "llama_gpu_inter_token_seconds", "Between one token of a completion and the next.", _MODEL, TOKEN_GAP_BOUNDS
)
BATCH_SIZE = Histogram("llama_gpu_batch_size", "Requests that share an engine's step.", _MODEL, BATCH_BOUNDS)

# ---------------------------------------------------------------- jobs
JOBS_SUBMITTED = Counter("llama_gpu_jobs_submitted_total", "Jobs that were taken.", ("kind",))
JOBS_ENDED = Counter("llama_gpu_jobs_ended_total", "Jobs that have ended.", ("kind", "state"))
JOB_ITEMS = Counter("llama_gpu_job_items_total", "Items of jobs that have got their results.", ("kind", "state"))
JOB_RETRIES = Counter("llama_gpu_job_item_retries_total", "Items of jobs that were sent again.", ("kind", "code"))
WEBHOOKS = Counter("llama_gpu_webhook_attempts_total", "Attempts to tell a webhook of a job's end.", ("result",))

# ---------------------------------------------------------------- plugins
PLUGIN_SECONDS = Counter("llama_gpu_plugin_seconds_total", "Time spent in a plugin's hooks.", ("plugin",))
PLUGIN_CALLS = Counter("llama_gpu_plugin_calls_total", "Calls of a plugin's hooks.", ("plugin",))
PLUGIN_FAILURES = Counter("llama_gpu_plugin_failures_total", "Calls of a plugin's hooks that failed.", ("plugin",))

COUNTERS = (
    HTTP_REQUESTS,
    RATE_LIMITED,
    QUEUE_FULL,
    REQUESTS,
    ERRORS,
    PROMPT_TOKENS,
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    JOBS_SUBMITTED,
    JOBS_ENDED,
    JOB_ITEMS,
    JOB_RETRIES,
    WEBHOOKS,
    PLUGIN_SECONDS,
    PLUGIN_CALLS,
    PLUGIN_FAILURES,
)
HISTOGRAMS = (
    HTTP_SECONDS,
    QUEUE_SECONDS,
    FIRST_TOKEN_SECONDS,
    REQUEST_SECONDS,
    TOKEN_GAP_SECONDS,
    BATCH_SIZE,
)
