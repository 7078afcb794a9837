"""How a webhook's receiver knows that it comes from here: an HMAC of its id, its time and its body.

After the specification of Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks), so that its
libraries verify ours.
"""

import base64
import hashlib
import hmac

from django.conf import settings

_PREFIX = "whsec_"


def secret_of(user_id: int) -> str:
    """The secret that a user's webhooks are signed with. It follows from the server's own, so that it is stored
    nowhere."""
    derived = hmac.new(settings.SECRET_KEY.encode(), f"webhooks of user {user_id}".encode(), hashlib.sha256)
    return _PREFIX + base64.b64encode(derived.digest()).decode()


def headers(*, secret: str, delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """What a message with this id carries, sent at `timestamp` (Unix seconds)."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signed = b"%b.%d.%b" % (delivery_id.encode(), timestamp, body)
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
