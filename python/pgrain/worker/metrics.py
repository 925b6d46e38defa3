"""Numbers for Prometheus, if `pgrain worker --metrics HOST:PORT` asks for them.

The library `prometheus_client` (extra `metrics`) is needed only then; without it counting costs
nothing.
"""

from __future__ import annotations

from typing import Any

from pgrain.errors import NotReady

CALLER_SECONDS = 5
_REQUESTS: Any = None
_SECONDS: Any = None
_RUNNING: Any = None
_JOBS: Any = None
_CONNECTIONS: Any = None


def serve(where: str, *, version: str, database: str) -> Any:
    """Start the endpoint ``http://host:port/metrics``; returns what `shutdown()` stops."""
    global _REQUESTS, _SECONDS, _RUNNING, _JOBS, _CONNECTIONS
    try:
        import prometheus_client as p
    except ImportError:
        raise NotReady("metrics need the library prometheus_client",
                       hint="pip install 'pgrain[metrics]'") from None
    host, _, port = where.rpartition(":")
    if not port.isdigit():
        raise NotReady(f'no address for metrics: "{where}"', hint="Give HOST:PORT or PORT.")
    registry = p.CollectorRegistry()
    p.ProcessCollector(registry=registry)
    p.Info("pgrain", "the worker", registry=registry).info({"version": version,
                                                            "database": database})
    _REQUESTS = p.Counter("pgrain_requests", "requests that were answered", ["method", "sqlstate"],
                          registry=registry)
    _SECONDS = p.Histogram("pgrain_request_seconds", "from arrival to answer, waiting included",
                           ["method"], registry=registry,
                           buckets=(.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100))
    _RUNNING = p.Gauge("pgrain_requests_present", "requests that wait or are computed",
                       registry=registry)
    _CONNECTIONS = p.Gauge("pgrain_connections", "sessions that are connected", registry=registry)
    _JOBS = p.Counter("pgrain_jobs", "jobs that ended", ["kind", "state"], registry=registry)
    try:
        server, _ = p.start_http_server(int(port), addr=host or "127.0.0.1", registry=registry)
    except OverflowError:
        raise NotReady(f'no address for metrics: "{where}"',
                       hint="A port is at most 65535.") from None
    # Each caller is a thread and a file of the worker's: who says nothing does not keep them.
    server.RequestHandlerClass = type("Handler", (server.RequestHandlerClass,),
                                      {"timeout": CALLER_SECONDS})
    return server


def request(method: str, sqlstate: str, seconds: float) -> None:
    """Count an answer; sqlstate 00000 for a result."""
    if _REQUESTS is not None:
        _REQUESTS.labels(method, sqlstate).inc()
        _SECONDS.labels(method).observe(seconds)


def present(change: int) -> None:
    """A request has come (1) or gone (-1)."""
    if _RUNNING is not None:
        _RUNNING.inc(change)


def connection(change: int) -> None:
    """A session has connected (1) or left (-1)."""
    if _CONNECTIONS is not None:
        _CONNECTIONS.inc(change)


def job(kind: str, state: str) -> None:
    """Count a job that ended."""
    if _JOBS is not None:
        _JOBS.labels(kind, state).inc()
