"""Webhooks: told at least once, each under an id of its own, until the receiver takes it or hope is given up."""

import asyncio
import logging
import time
from datetime import timedelta

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils import timezone

from common import metric_catalogue
from common.envelope import timestamp
from jobs.ids import new_id
from jobs.models import Job, WebhookDelivery
from jobs.presentation import job_body
from jobs.webhook_addresses import BlockedAddress
from jobs.webhook_request import BadAnswer, post
from jobs.webhook_signing import headers, secret_of

logger = logging.getLogger(__name__)

# Seconds from one attempt to the next; after the last one hope is given up.
PAUSES = (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600)
AT_ONCE = 16
# An attempt is noted before it is made: one that dies with its process is made again after this.
_CLAIM = timedelta(seconds=4 * settings.WEBHOOK_TIMEOUT_SECONDS)
State = WebhookDelivery.State


def announce_end(job: Job) -> None:
    """Note that a job's end is to be told; call it in the transaction that ends it."""
    if not job.webhook_url:
        return
    event = f"job.{job.state}"
    body = msgspec.json.encode({"type": event, "timestamp": timestamp(job.ended_at), "data": {"job": job_body(job)}})
    WebhookDelivery.objects.create(
        id=new_id("msg_"), job=job, event=event, url=job.webhook_url, body=body.decode(), next_at=timezone.now()
    )


async def deliver_due() -> int:
    """Make the attempts that are due, at most AT_ONCE, and return how many there were."""
    due = await sync_to_async(_claim)()
    await asyncio.gather(*(_attempt(delivery, owner_id) for delivery, owner_id in due))
    return len(due)


def _claim() -> list[tuple[WebhookDelivery, int]]:
    now = timezone.now()
    due = WebhookDelivery.objects.filter(state=State.WAITING, next_at__lte=now).select_related("job")
    claimed: list[tuple[WebhookDelivery, int]] = []
    for delivery in due.order_by("next_at")[:AT_ONCE]:
        still = WebhookDelivery.objects.filter(pk=delivery.pk, state=State.WAITING, next_at=delivery.next_at)
        if still.update(next_at=now + _CLAIM, attempts=delivery.attempts + 1):
            delivery.attempts += 1
            claimed.append((delivery, delivery.job.owner_id))
    return claimed


async def _attempt(delivery: WebhookDelivery, owner_id: int) -> None:
    body = delivery.body.encode()
    signed = headers(secret=secret_of(owner_id), delivery_id=delivery.pk, timestamp=int(time.time()), body=body)
    status, error = None, ""
    try:
        status = await post(
            delivery.url,
            body,
            {**signed, "Content-Type": "application/json", "User-Agent": f"llama-gpu/{settings.VERSION}"},
        )
    except (BlockedAddress, BadAnswer) as refusal:
        error = str(refusal)
    except TimeoutError:
        error = "It did not answer in time."
    except OSError as failure:
        error = f"It can't be reached: {failure.strerror or type(failure).__name__}."
    if status is not None and not 200 <= status < 300:
        error = f"It answered {status}."
    await sync_to_async(_note)(delivery, status, error)


def _note(delivery: WebhookDelivery, status: int | None, error: str) -> None:
    delivery.last_status, delivery.last_error = status, error[:200]
    if not error:
        delivery.state = State.DELIVERED
    elif delivery.attempts > len(PAUSES):
        delivery.state = State.GIVEN_UP
    else:
        delivery.next_at = timezone.now() + timedelta(seconds=PAUSES[delivery.attempts - 1])
    delivery.save(update_fields=["state", "next_at", "last_status", "last_error"])
    metric_catalogue.WEBHOOKS.add("delivered" if not error else "failed")
    if error:
        logger.warning("the webhook of job %s failed, attempt %d: %s", delivery.job_id, delivery.attempts, error)
