"""`manage.py createkey NAME`: a new API key, alone on standard output, so that a script can take it."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts.audit import commanding
from accounts.caller import LEVELS
from accounts.keys import create_api_key
from accounts.models import User
from accounts.services import ADMINISTRATOR

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> datetime:
    """`30d`, `12h` and the like from now, or ISO 8601, in UTC unless it says otherwise."""
    if match := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return timezone.now() + timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a time like 2027-01-31 nor a duration like 12h or 30d") from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found <= timezone.now():
        raise ArgumentTypeError(f"{text} has passed")
    return found


class Command(BaseCommand):
    help = "Make an API key and print it. It is shown this once: only a hash of it is kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the key is for")
        parser.add_argument("--user", default=ADMINISTRATOR, help="its owner (default: %(default)s)")
        parser.add_argument("--permission", choices=LEVELS, default="write", help="default: %(default)s")
        parser.add_argument("--tier", choices=list(settings.TIERS), default="standard", help="default: %(default)s")
        parser.add_argument("--expires", type=moment, help="such as 12h, 30d or 2027-01-31; never if left out")
        parser.add_argument("--token-budget", type=int, metavar="TOKENS", help="tokens a day; no limit if left out")

    def handle(self, *args: Any, **options: Any) -> None:
        owner = User.objects.filter(username=options["user"]).first()
        if owner is None:
            known = ", ".join(User.objects.order_by("username").values_list("username", flat=True)[:20])
            raise CommandError(f"There is no user {options['user']!r}; there are: {known or 'none yet'}.")
        if options["permission"] not in owner.permissions:
            raise CommandError(f"{owner.username} is {owner.role}: their keys can't have {options['permission']}.")
        if not 0 < len(options["name"]) <= 100:
            raise CommandError("The name must have 1 to 100 characters.")
        budget = options["token_budget"]
        if budget is not None and budget < 0:
            raise CommandError("The token budget can't be negative.")
        row, key = create_api_key(
            owner=owner,
            name=options["name"],
            permission=options["permission"],
            tier=options["tier"],
            expires_at=options["expires"],
            token_budget=budget,
            actor=commanding("createkey"),
        )
        ends = f", until {row.expires_at:%Y-%m-%d %H:%M} UTC" if row.expires_at else ""
        self.stderr.write(
            f"Key {row.pk} of {owner.username}: {row.permission}, {row.tier}{ends}. It is shown this once:"
        )
        self.stdout.write(key)
