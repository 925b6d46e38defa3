"""`pgrain bundle`: a model version with its spectrum and projections as one file.

A team without the training data imports it and complains; a team without the inference data keeps
it and answers complaint vectors.
"""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def bundle() -> None:
    """A model version as one file: export it here, import it in another cluster."""


@bundle.command()
@click.option("--dsn", required=True, help="libpq connection string of the database")
@click.option("--model", required=True, help="which model")
@click.option("--version", type=int, help="which of its versions; default: the active one")
@click.option("--ids-only", is_flag=True, help="of each training row only its key and what ranks "
                                               "its deletion: no label, no probabilities")
@click.option("--force", is_flag=True, help="replace a file of that name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(dsn: str, model: str, version: int | None, ids_only: bool, force: bool,
           file: Path) -> None:
    """Write a version of a model to FILE."""
    from pgrain.store import bundle_file, bundles
    if file.exists() and not force:
        raise click.ClickException(f"{file} is there already; --force replaces it")

    def work(connection):
        about, tensors = bundles.collect(connection, model, version, ids_only=ids_only)
        bundle_file.write(file, about, tensors)
        return about
    about = _run(dsn, work)
    what = "ids only" if ids_only else f"{len(about['interventions'])} repairs"
    click.echo(f"pgrain: version {about['version']} of {model}: {about['trained']['n_rows']} rows, "
               f"{len(about['spectrum']['eigenvalues'])} eigenpairs, {what}; "
               f"{file.stat().st_size / 1e6:.1f} MB in {file}")


@bundle.command("import")
@click.option("--dsn", required=True, help="libpq connection string of the database")
@click.option("--as", "name", help="another name for the model")
@click.option("--training-table", help="the table of its training rows, if it is here")
@click.option("--modules", is_flag=True, help="accept a bundle whose architecture is Python code")
@click.argument("file", type=click.Path(path_type=Path))
def load(dsn: str, name: str | None, training_table: str | None, modules: bool,
         file: Path) -> None:
    """Store the model version in FILE as a new model. Nothing is stored if FILE is damaged."""
    from pgrain.store import bundle_file, bundles

    def work(connection):
        about, tensors = bundle_file.read(file)
        return bundles.restore(connection, about, tensors, name=name,
                               training_table=training_table, modules=modules)
    model, version = _run(dsn, work)
    click.echo(f"pgrain: {file} is version {version} of model {model}; next: "
               f"CALL pgrain.attach('{model}', ...)")


def _run(dsn: str, work):
    import psycopg

    from pgrain.errors import PgrainError
    from pgrain.store.database import connect
    try:
        with connect(dsn, role=None) as connection:
            return work(connection)
    except PgrainError as error:
        lines = [error.message, *(line for line in (error.detail, error.hint) if line)]
        raise click.ClickException("\n".join(lines)) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise click.ClickException(
            f"{str(error).strip()}\nA bundle holds what ordinary roles may not read: export and "
            "import take a superuser or the owner of the extension.") from error
    except psycopg.Error as error:
        raise click.ClickException(str(error).strip()) from error
