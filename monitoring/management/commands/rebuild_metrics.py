"""`manage.py rebuild_metrics`: the requests' figures over time, counted anew from their records."""

from typing import Any

from django.core.management.base import BaseCommand

from monitoring.rollups import rebuild


class Command(BaseCommand):
    help = "Count the figures of /system/metrics anew from the records of requests. Stop the workers before."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{rebuild()} requests counted")
