"""The `pgrain` command. Each subcommand imports what it needs when it runs: `pgrain install` must
work without JAX, and `pgrain cluster dsn` must answer at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pgrain.cli.bundle import bundle
from pgrain.cli.data import data
from pgrain.cli.install import InstallError, NeedsRoot, find_server, version, with_sudo

ROOT = Path(__file__).resolve().parents[3]


def is_installed() -> bool:
    """Whether this package came from a wheel, and is no part of a checkout."""
    return not (ROOT / "extension" / "pgrain.control").exists()


def checkout() -> Path:
    """The checkout that this package is part of; an error when it came from a wheel."""
    if is_installed():
        raise click.ClickException("this needs a checkout of pgrain, with its Makefile")
    return ROOT


def _lacks(command: str, extra: str, error: ModuleNotFoundError) -> Exception:
    """What to install where a library of an extra is missing; a module of our own is a defect."""
    if (error.name or "pgrain").partition(".")[0] == "pgrain":
        return error
    wheel = f"pgrain-{version()}-py3-none-any.whl" if is_installed() else "pgrain"
    return click.ClickException(f"`pgrain {command}` needs more libraries ({error.name} is "
                                f"missing): pip install '{wheel}[{extra}]'")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="pgrain")
def main() -> None:
    """From a wrong number in a query's result to the training rows that made it wrong."""


@main.command()
@click.option("--pg-config", help="pg_config of the server to install into; default: $PG_CONFIG, "
              "else the one on the PATH, else that of the newest server that has PL/Python")
def install(pg_config: str | None) -> None:
    """Put the extension into a PostgreSQL installation."""
    from pgrain.cli import install as job
    try:
        server = find_server(pg_config)
        if not server.has_plpython:
            raise InstallError(f"{server.sharedir} has no plpython3u; "
                               f"install postgresql-plpython3-{server.major}")
        done = job.install(server)
    except NeedsRoot:
        # Root's PATH may lead to another server.
        raise SystemExit(with_sudo(["install", "--pg-config", server.pg_config])) from None
    except InstallError as error:
        raise click.ClickException(str(error)) from error
    if done or is_installed():      # `make` installs before all it does, and is silent about it
        click.echo(f"pgrain: extension {version()} {'installed into' if done else 'is already in'} "
                   f"{server.sharedir} (PostgreSQL {server.major})")


@main.command()
@click.option("--pg-config", help="pg_config of the server to clean; default: as for install")
def uninstall(pg_config: str | None) -> None:
    """Take the extension's files out of a PostgreSQL installation."""
    from pgrain.cli import install as job
    try:
        server = find_server(pg_config)
        gone = job.uninstall(server)
    except NeedsRoot:
        raise SystemExit(with_sudo(["uninstall", "--pg-config", server.pg_config])) from None
    except InstallError as error:
        raise click.ClickException(str(error)) from error
    for path in gone:
        click.echo(f"pgrain: removed {path}")
    if not gone:
        click.echo(f"pgrain: nothing of it is in {server.sharedir}")


@main.command()
@click.option("--dsn", required=True, help="libpq connection string of the database")
@click.option("--socket", "path", help="Unix socket to listen on; default: one in /run/pgrain, or "
                                       "in a folder of this user in /tmp")
@click.option("--listen", "remote", metavar="HOST:PORT",
              help="listen on TCP instead, with mutual TLS only")
@click.option("--tls-ca", "ca", help="the authority that has signed both certificates")
@click.option("--tls-certificate", "certificate", help="this worker's certificate")
@click.option("--tls-key", "key", help="its key")
@click.option("--tls-peer", "peers", multiple=True,
              help="name in the certificate of who may connect (repeatable; default: any of the "
                   "authority)")
@click.option("--allow-user", "users", multiple=True,
              help="OS user that may connect (repeatable); default: the one that runs the server")
@click.option("--modules", help="packages that user modules may come from, with commas between "
              "them; default: whatever the worker can import")
@click.option("--coordinator", metavar="HOST:PORT", help="several processes, one worker: where "
              "they meet (process 0 listens there)")
@click.option("--processes", type=click.IntRange(1), default=1, help="how many they are")
@click.option("--process", type=click.IntRange(0), default=0,
              help="which of them this is; 0 serves, the others lend their devices")
@click.option("--metrics", metavar="[HOST:]PORT", help="serve numbers for Prometheus there")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text",
              show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info",
              show_default=True, help="debug: a line a request")
def worker(dsn: str, path: str | None, remote: str | None, ca: str | None, certificate: str | None,
           key: str | None, peers: tuple[str, ...], users: tuple[str, ...], modules: str | None,
           coordinator: str | None, processes: int, process: int, metrics: str | None,
           log_format: str, log_level: str) -> None:
    """Run the worker beside a database, in the foreground."""
    if path and remote:
        raise click.UsageError("--socket and --listen exclude each other")
    if (processes > 1) != (coordinator is not None) or process >= processes:
        raise click.UsageError("--coordinator HOST:PORT, --processes N and --process 0 ... N-1 "
                               "belong together")
    tls = {"ca": ca, "certificate": certificate, "key": key}
    if remote and not all(tls.values()):
        raise click.UsageError("--listen needs --tls-ca, --tls-certificate and --tls-key: a worker "
                               "that anybody can reach speaks with nobody unknown")
    if not remote and (any(tls.values()) or peers):
        raise click.UsageError("the options --tls-... belong to --listen")
    try:
        from pgrain.worker.main import Options, run
    except ModuleNotFoundError as error:
        raise _lacks("worker", "worker", error) from None
    address = f"tls://{remote}" if remote else path and os.path.abspath(path)
    packages = None if modules is None else tuple(name for name in modules.split(",") if name)
    raise SystemExit(run(Options(dsn, address, users, tls if remote else {}, peers, metrics,
                                 log_format, log_level, packages, coordinator, processes,
                                 process)))


@main.command("import-weights")
@click.option("--dsn", required=True, help="libpq connection string of the database")
@click.option("--options", default="{}", help="JSON, such as {\"classes\": [\"no\", \"yes\"]}")
@click.argument("model")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_weights(dsn: str, options: str, model: str, file: Path) -> None:
    """Make a version of MODEL from the weights in FILE (safetensors or Flax msgpack)."""
    import psycopg
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.add_notice_handler(lambda notice: click.echo(notice.message_primary))
            connection.execute("CALL pgrain.import_weights(%s, %s, %s::jsonb)",
                               [model, file.read_bytes(), options])
    except psycopg.Error as error:
        lines = [error.diag.message_primary or str(error), error.diag.message_detail,
                 error.diag.message_hint]
        raise click.ClickException("\n".join(line for line in lines if line)) from error


@main.group()
def cluster() -> None:
    """The private cluster of this checkout, with its worker."""


def _cluster():
    from pgrain.cli.cluster import Cluster
    from pgrain.cli.place import PlaceError
    try:
        return Cluster.of_checkout(checkout())
    except (PlaceError, InstallError) as error:
        raise click.ClickException(str(error)) from error


def existing_cluster():
    """The cluster, without making a folder for one that is not there."""
    if not (checkout() / ".local" / "cluster").exists():
        raise click.ClickException("there is no cluster yet; run `make up`")
    return _cluster()


@cluster.command()
@click.option("--worker/--no-worker", default=True, help="start the worker too")
@click.option("--renew", is_flag=True, help="make the extension anew: models and edits go")
def up(worker: bool, renew: bool) -> None:
    """Start cluster and worker (making the cluster the first time)."""
    import psycopg

    from pgrain.cli.background import WorkerError, WorkerProcess
    from pgrain.cli.cluster import ClusterError
    it = _cluster()
    local, began = checkout() / ".local" / "cluster", False
    if it.place != local:
        click.echo(f"pgrain: the server's OS user cannot use {local} (rights of a folder above it, "
                   f"or a path too long for a socket); the cluster is in {it.place}")
    try:
        fresh = it.create()
        if it.start():
            click.echo(f"pgrain: {'made and ' if fresh else ''}started a private PostgreSQL "
                       f"{it.server.major} as OS user {it.account.name}, socket in {it.run}")
            began = True
        process = WorkerProcess(it)
        if renew or process.outdated:
            process.stop()
        it.ensure_database(renew=renew)
        if worker and process.start():
            click.echo(f"pgrain: started the worker (pid {process.pid}), log in {process.log}")
            began = True
        if not began:
            click.echo(f"pgrain: the cluster is up, socket in {it.run}"
                       + (f", and its worker (pid {process.pid})" if process.pid else ""), err=True)
    except (ClusterError, WorkerError) as error:
        raise click.ClickException(str(error)) from error
    except psycopg.Error as error:
        raise click.ClickException(f"CREATE EXTENSION failed: {error}") from error


@cluster.command()
def down() -> None:
    """Stop worker and cluster; the data stays."""
    from pgrain.cli.background import WorkerProcess
    if not (checkout() / ".local" / "cluster").exists():
        return
    it = _cluster()
    if WorkerProcess(it).stop():
        click.echo("pgrain: stopped the worker")
    if it.stop():
        click.echo("pgrain: stopped the cluster")


@cluster.command()
def status() -> None:
    """Say what runs; exit status 1 unless both do."""
    from pgrain.cli.background import WorkerProcess
    it = existing_cluster()
    process = WorkerProcess(it)
    click.echo(f"cluster  {'up, pid ' + str(it.pid) if it.running else 'down'}  {it.place}")
    state = f"up, pid {process.pid}" if process.pid else "down"
    click.echo(f"worker   {state}  {process.log}")
    if not it.running or not process.pid:
        raise SystemExit(1)


@cluster.command()
def remove() -> None:
    """Stop everything and delete the cluster with its data."""
    from pgrain.cli.background import WorkerProcess
    local = checkout() / ".local" / "cluster"
    if not local.exists() and not local.is_symlink():
        return
    it = _cluster()
    WorkerProcess(it).stop()
    it.remove()
    if local.is_symlink():
        local.unlink()
    click.echo(f"pgrain: removed {it.place}")


@cluster.command()
def dsn() -> None:
    """Print the libpq connection string, and nothing else."""
    it = existing_cluster()
    if not it.running:
        raise click.ClickException("the cluster is down; run `make up`")
    click.echo(it.dsn())


@cluster.command()
@click.argument("arguments", nargs=-1)
def psql(arguments: tuple[str, ...]) -> None:
    """Open psql in the cluster's database."""
    it = existing_cluster()
    os.execvp("psql", ["psql", it.dsn(), *arguments])


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Run the demo story (`pgrain demo --help` lists its options)."""
    try:
        from pgrain.demo.story import command
    except ModuleNotFoundError as error:
        raise _lacks("demo", "demo", error) from None
    command(list(arguments), prog_name="pgrain demo")


main.add_command(bundle)
main.add_command(data)


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def paper(arguments: tuple[str, ...]) -> None:
    """Run the paper's experiments (`pgrain paper --help` lists them)."""
    try:
        from pgrain.demo.paper.command import command
    except ModuleNotFoundError as error:
        raise _lacks("paper", "bench", error) from None
    command(list(arguments), prog_name="pgrain paper")


@main.command()
@click.option("--dsn", help="database to look at; default: the private cluster's")
def doctor(dsn: str | None) -> None:
    """Run pgrain.doctor() and print it; exit status 1 if a check fails."""
    import psycopg
    if dsn is None and is_installed():
        raise click.UsageError("name the database: --dsn 'dbname=...'")
    try:
        with psycopg.connect(dsn or existing_cluster().dsn()) as connection:
            if not connection.execute("SELECT to_regnamespace('pgrain') IS NOT NULL").fetchone()[0]:
                raise click.ClickException(f'database "{connection.info.dbname}" has no extension '
                                           "pgrain: CREATE EXTENSION pgrain CASCADE")
            rows = connection.execute("SELECT * FROM pgrain.doctor()").fetchall()
    except psycopg.Error as error:
        raise click.ClickException(str(error)) from error
    for what, ok, detail, hint in rows:
        click.echo(f"{'ok  ' if ok else 'FAIL'}  {what}: {detail}")
        if hint:
            click.echo(f"      {hint}")
    if not all(row[1] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
