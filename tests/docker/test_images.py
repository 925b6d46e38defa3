"""The images and compose files of docker/, on a Docker engine: `make docker-test` starts one where
none runs, and makes what it needs. Without an engine these tests are skipped."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

docker = pytest.importorskip("docker", reason="testcontainers is not installed")
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")   # an image that may not be had
from testcontainers.compose import DockerCompose  # noqa: E402
from testcontainers.core.container import DockerContainer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BASE = os.environ.get("PGRAIN_BASE", "debian:13-slim")
MAJOR = os.environ.get("PGRAIN_MAJOR", "17")
PASSWORD, PORT = "not a secret", 54329
PATIENCE = 300
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MODEL = """
CREATE TABLE past AS SELECT i AS id, (i * 37 % 500)::float8 AS amount,
    CASE WHEN i * 37 % 500 > 350 OR i % 10 = 3 THEN 'fraud' ELSE 'good' END AS outcome
FROM generate_series(1, 500) AS i;
CREATE TABLE orders AS SELECT i AS id, 1 + i % 3 AS day, (i * 41 % 500)::float8 AS amount
FROM generate_series(1, 300) AS i;
SELECT pgrain.create_model('check', 'past', 'id', '{amount}', 'outcome', 'logistic_regression');
CALL pgrain.train('check');
CALL pgrain.precompute('check');
CALL pgrain.attach('check', 'orders')
"""
COMPLAIN = """SELECT train_id FROM pgrain.complain($$ SELECT day, count(*) AS held FROM orders o
    WHERE pgrain.predict('check', o) = 'fraud' GROUP BY day $$, 'held too high', 5)"""


@pytest.fixture(scope="session")
def engine():
    """A client of an engine that answers."""
    try:
        client = docker.from_env(timeout=3600)
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers ({str(error)[:80]}); `make docker-test` starts one")
    return client


@pytest.fixture(scope="session")
def build(engine):
    """`build(tag, dockerfile, target)`: an image of this tree; pip is told what it is told here."""
    try:
        engine.images.get(BASE)
    except docker.errors.ImageNotFound:
        try:
            engine.images.pull(BASE)
        except docker.errors.DockerException:
            pytest.skip(f'no image "{BASE}" and no registry that has it; `make docker-test` makes '
                        "a base image")
    arguments = {"BASE": BASE, "MAJOR": MAJOR, **{
        name: value for name, value in os.environ.items()
        if name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")}}

    def build(tag, dockerfile, target=None, **more):
        try:
            image, _ = engine.images.build(
                path=str(ROOT), dockerfile=f"docker/{dockerfile}", tag=tag, target=target,
                buildargs=arguments | more, network_mode="host", rm=True, forcerm=True)
        except docker.errors.BuildError as error:
            log = "".join(line.get("stream", "") for line in error.build_log)
            raise AssertionError(f"{tag}: {error}\n{log[-4000:]}") from error
        return image
    return build


@pytest.fixture(scope="session")
def images(build):
    return {"server": build("pgrain-server", "Dockerfile.server"),
            "worker": build("pgrain-worker", "Dockerfile.worker", "worker"),
            "demo": build("pgrain-demo", "Dockerfile.worker", "demo")}


class Compose(DockerCompose):
    """`docker compose`, or the older `docker-compose` where that is what there is."""

    @property
    def compose_command_property(self):
        new = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        if not new and not shutil.which("docker-compose"):
            pytest.skip("neither `docker compose` nor `docker-compose`")
        files = [part for name in self.compose_file_name for part in ("-f", name)]
        return [*(["docker", "compose"] if new else ["docker-compose"]), "-p",
                "pgrain-test", *files]

    def id_of(self, service):
        return subprocess.run([*self.compose_command_property, "ps", "-q", service],
                              capture_output=True, text=True, check=True,
                              cwd=self.context).stdout.strip()


def until(condition, what, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)
    return value


def connect():
    return psycopg.connect(host="127.0.0.1", port=PORT, user="postgres", password=PASSWORD,
                           dbname="pgrain", autocommit=True)


@pytest.fixture
def up(engine, images, monkeypatch):
    """`up(file, …)`: its services, healthy. Removed with their volumes after the test."""
    monkeypatch.setenv("POSTGRES_PASSWORD", PASSWORD)
    monkeypatch.setenv("PGRAIN_PORT", str(PORT))
    started = []

    def start(*names):
        compose = Compose(ROOT / "docker", compose_file_name=list(names), wait=False)
        started.append(compose)
        compose.start()
        for service in ("server", "worker"):
            until(lambda service=service: health(engine, compose.id_of(service)) == "healthy",
                  f"{service} is healthy")
        return compose
    yield start
    for compose in started:
        if os.environ.get("PGRAIN_TEST_KEEP"):
            continue
        print(compose.get_logs())
        compose.stop()


def health(engine, container):
    return engine.api.inspect_container(container)["State"]["Health"]["Status"]


def test_images_run_as_nobody_special_and_say_how_they_are(engine, images):
    for name, image in images.items():
        config = image.attrs["Config"]
        assert config["User"] not in ("", "0", "root"), name
        assert config["Healthcheck"]["Test"] and (
            name == "demo" or config["Healthcheck"]["Test"] != ["NONE"]), name
        with DockerContainer(f"pgrain-{name}").with_kwargs(entrypoint=["sh", "-c"]) \
                .with_command(["sleep 60"]) as container:
            code, said = container.exec(["id", "-u"])
            assert code == 0 and int(said) > 0
            # Nothing of ours or of the system can be written by it.
            code, said = container.exec(["sh", "-c", "find / -xdev -type f -writable -not -path "
                                         "'/proc/*' -not -path '/sys/*' 2>/dev/null | head -5"])
            assert said.decode().strip() == "", said
        print(f"{name}: {image.attrs['Size'] / 1e6:.0f} MB")


def test_server_and_worker_meet_on_shared_volumes(engine, up):
    compose = up("compose.yaml")
    with connect() as session:
        for statement in MODEL.split(";\n"):
            session.execute(statement)
        rows = session.execute(COMPLAIN).fetchall()
        assert len(rows) == 5
        assert session.execute("SELECT bool_and(ok) FROM pgrain.doctor()").fetchone()[0]
        assert session.execute("SELECT socket FROM pgrain.worker").fetchone()[0].startswith("/run")
        # The image has no LLVM; a query that would be compiled runs all the same.
        session.execute("SET jit = on")
        session.execute("SET jit_above_cost = 0")
        assert session.execute("SELECT pg_jit_available(), sum(amount * 2) FROM past"
                               ).fetchone() == (False, 249_500.0)
        # The worker dies; its restart policy brings it back, and the session goes on.
        worker = compose.id_of("worker")
        before = engine.api.inspect_container(worker)["State"]["Pid"]
        # From outside, for the kernel lets no process 1 be killed by its own container; and not by
        # the engine, which does not restart what it was told to kill.
        engine.containers.run("pgrain-server", ["-c", f"kill -9 {before}"], entrypoint="sh",
                              user="root", pid_mode="host", remove=True)
        until(lambda: engine.api.inspect_container(worker)["State"]["Pid"] not in (0, before),
              "another process")
        assert engine.api.inspect_container(worker)["RestartCount"] >= 1
        until(lambda: health(engine, worker) == "healthy", "healthy again")
        assert session.execute(COMPLAIN).fetchall() == rows
    # The server is stopped and started: everything is still there.
    engine.containers.get(compose.id_of("server")).restart(timeout=60)
    until(lambda: health(engine, compose.id_of("server")) == "healthy", "the server again")

    def answers():
        try:
            with connect() as session:
                return session.execute(COMPLAIN).fetchall()
        except psycopg.Error:
            return None
    assert until(answers, "the worker finds the server again") == rows


def test_nobody_else_logs_in_as_the_worker(engine, up):
    compose = up("compose.yaml")
    with pytest.raises(psycopg.OperationalError, match="reject"):
        psycopg.connect(host="127.0.0.1", port=PORT, user="pgrain_worker", dbname="pgrain",
                        password=PASSWORD)
    server = engine.containers.get(compose.id_of("server"))
    code, said = server.exec_run(["psql", "-U", "pgrain_worker", "-d", "pgrain", "-c", "SELECT 1"])
    assert code != 0 and b"Peer authentication failed" in said


def test_server_and_worker_meet_over_tls_alone(engine, up):
    compose = up("compose.tls.yaml")
    with connect() as session:
        for statement in MODEL.split(";\n"):
            session.execute(statement)
        assert len(session.execute(COMPLAIN).fetchall()) == 5
        # A value that is not stored, so that it was the worker who answered.
        assert session.execute("SELECT pgrain.predict('check', '{\"amount\": 499.5}'::jsonb)"
                               ).fetchone()[0] in ("fraud", "good")
        assert session.execute("SELECT socket FROM pgrain.worker"
                               ).fetchone()[0] == "tls://worker:7433"
        assert session.execute(
            "SELECT count(*) > 0 AND bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity "
            "USING (pid) WHERE usename = 'pgrain_worker'").fetchone()[0]
    # They share no folder, and the authority's key is nowhere.
    mounts = [{m["Name"] for m in engine.api.inspect_container(compose.id_of(service))["Mounts"]}
              for service in ("server", "worker")]
    assert not mounts[0] & mounts[1]
    worker = engine.containers.get(compose.id_of("worker"))
    code, said = worker.exec_run(["ls", "/tls"])
    assert said.decode().split() == ["ca.pem", "certificate.pem", "key.pem"]
    # Whoever has no certificate of this authority is refused. Nothing is sent first: the refusal
    # would be lost with a connection that still had bytes to read.
    code, said = worker.exec_run(["python3", "-c", (
        "import socket, ssl; c = ssl.create_default_context(cafile='/tls/ca.pem'); "
        "s = c.wrap_socket(socket.create_connection(('worker', 7433)), server_hostname='worker'); "
        "print(s.recv(10))")])
    assert code != 0 and b"certificate required" in said, said


def test_the_demo_runs_in_the_composed_database(engine, images, up):
    compose = up("compose.yaml")
    done = subprocess.run([*compose.compose_command_property, "run", "--rm", "-T", "demo",
                           "--dsn", "dbname=pgrain", "--rows", "3000"], cwd=compose.context,
                          capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(done.stdout.split("result: ")[1].split("\n")[0])
    assert result["auc_r"] > 0.5, result


def test_the_image_for_gpus(engine, images, build, up, tmp_path):
    """With PGRAIN_GPU=1. Where the engine has NVIDIA's toolkit, on a card; elsewhere JAX falls back
    to the CPU, which shows that the libraries for the card are complete and harm nobody."""
    if not os.environ.get("PGRAIN_GPU"):
        pytest.skip("PGRAIN_GPU is not set (3 GB of wheels, some 20 GB of room)")
    card = "nvidia" in engine.info().get("Runtimes", {})
    gpu = ROOT / "docker" / "compose.gpu.yaml"
    jax = re.search(r"^ *JAX: (.*)$", gpu.read_text(), re.M).group(1)
    image = build("pgrain-worker-gpu", "Dockerfile.worker", "worker", JAX=jax)
    print(f"worker for GPUs: {image.attrs['Size'] / 1e6:.0f} MB; a card: {card}")
    alone = tmp_path / "alone.yaml"
    alone.write_text("services:\n  worker:\n    image: pgrain-worker-gpu\n")
    compose = up("compose.yaml", str(gpu if card else alone))
    with connect() as session:
        for statement in MODEL.split(";\n"):
            session.execute(statement)
        assert len(session.execute(COMPLAIN).fetchall()) == 5
        assert session.execute("SELECT bool_and(ok) FROM pgrain.doctor()").fetchone()[0]
    code, said = engine.containers.get(compose.id_of("worker")).exec_run(
        ["python3", "-c", "import jax, jax_cuda12_plugin, nvidia.cudnn; "
         "print(jax.default_backend())"])
    assert code == 0 and said.decode().split()[-1] == ("gpu" if card else "cpu"), said
