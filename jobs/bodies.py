"""The body of `POST /jobs`."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from inference.bodies import Parameters, convert


class JobOptions(Parameters, kw_only=True, forbid_unknown_fields=True):
    """What a job of many prompts can be told beside these: the parameters are those of all prompts that have none of
    their own. In the query where the body holds the prompts."""

    model: Annotated[str, Meta(max_length=200, description="Model identifier.")] = "default"
    timeout: Annotated[float, Meta(gt=0, description="Seconds until a single prompt is given up.")] | UnsetType = UNSET
    name: Annotated[str, Meta(max_length=200, description="What the job is called in lists.")] = ""
    webhook_url: Annotated[str, Meta(description="Who is told when the job has ended.")] = ""


class JobBody(JobOptions, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /jobs` as JSON."""

    input_file_id: Annotated[str, Meta(description="A file that was uploaded, of one prompt a line.")]
    metadata: Annotated[dict[str, str], Meta(description="Yours; shown with the job.")] = {}


_NOT_PARAMETERS = ("name", "webhook_url", "input_file_id", "metadata")


def parse_body(data: Any) -> JobBody:
    """Raises InvalidInput."""
    return convert(data, JobBody, "")


def parse_query(query: dict[str, Any]) -> JobOptions:
    """The options in a query, where all are text. Raises InvalidInput."""
    return convert(query, JobOptions, "", strict=False)


def parameters(options: JobOptions) -> dict[str, Any]:
    """Those of a job's options that are parameters of its items, as they were given."""
    given = msgspec.to_builtins(options)
    return {name: value for name, value in given.items() if name not in _NOT_PARAMETERS}
