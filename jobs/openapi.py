"""What the OpenAPI document says about the doors of jobs."""

from functools import partial
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from inference.openapi import inlined
from jobs.bodies import JobBody, JobOptions
from jobs.serializers import (
    ForgetQuery,
    JobQuery,
    JobResponse,
    JobsQuery,
    JobsResponse,
    JobWithResultsResponse,
    ResultsQuery,
    WebhookSecretResponse,
)

_job_schema = partial(extend_schema, tags=["Jobs"])
_JOB_ID = OpenApiParameter("job_id", str, OpenApiParameter.PATH, description="The id of a job.")
_LINES = {"type": "string", "description": "One prompt a line."}


def _query_parameters() -> list[OpenApiParameter]:
    properties: dict[str, Any] = inlined(JobOptions)["properties"]
    return [
        OpenApiParameter(
            name,
            {key: value for key, value in schema.items() if key not in ("description", "default")},
            OpenApiParameter.QUERY,
            description=f"{schema.get('description', '')} Where the body holds the prompts.".strip(),
        )
        for name, schema in properties.items()
        if name != "stop"
    ]


describe_list = _job_schema(operation_id="list_jobs", parameters=[JobsQuery], responses=JobsResponse)
describe_submit = _job_schema(
    operation_id="submit_job",
    parameters=_query_parameters(),
    request={
        "application/json": inlined(JobBody),
        "application/x-ndjson": _LINES,
        "text/csv": _LINES,
    },
    responses={202: JobResponse},
    examples=[
        OpenApiExample(
            "An uploaded file", value={"input_file_id": "file-…", "max_tokens": 50, "name": "A try"}, request_only=True
        )
    ],
)
describe_get = _job_schema(operation_id="get_job", parameters=[_JOB_ID, JobQuery], responses=JobWithResultsResponse)
describe_cancel = _job_schema(operation_id="cancel_job", parameters=[_JOB_ID, ForgetQuery], responses=JobResponse)
describe_results = _job_schema(
    operation_id="get_job_results",
    parameters=[_JOB_ID, ResultsQuery],
    responses={(200, "application/x-ndjson"): OpenApiResponse(OpenApiTypes.STR, "One line for each ended item.")},
)
describe_events = _job_schema(
    operation_id="watch_job",
    parameters=[_JOB_ID],
    responses={
        (200, "text/event-stream"): OpenApiResponse(
            OpenApiTypes.STR, "Server-Sent Events: `progress` whenever something has changed, and `end` at the end."
        )
    },
)
describe_secret = _job_schema(operation_id="get_webhook_secret", responses=WebhookSecretResponse)
