"""Counters for Prometheus. Labels are bounded: methods, templates of endpoints, statuses and states; never ids or names."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine, func, select

from api.database import STATES, Job

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class JobStates(Collector):
    """Counted in the database when Prometheus asks, so it is right after a restart."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self.engine.connect() as connection:
            found = dict(connection.execute(select(Job.state, func.count()).group_by(Job.state)).tuples().all())
        family = GaugeMetricFamily("cinemill_jobs", "Jobs by state.", labels=["state"])
        for state in STATES:
            family.add_metric([state], found.get(state, 0))
        yield family


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cinemill_requests", "Requests answered.", ["method", "endpoint", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "cinemill_request_seconds", "Time until an answer begins.", ["endpoint"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.open = Gauge("cinemill_requests_open", "Requests being answered, streams too.", registry=self.registry)

    def watch(self, engine: Engine) -> None:
        """Count the jobs of this database, too."""
        self.registry.register(JobStates(engine))

    def answered(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        self.requests.labels(method if method in METHODS else "other", endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)
