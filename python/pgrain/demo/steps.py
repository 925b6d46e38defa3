"""What the demo prints: numbered steps, the SQL it runs, bars for what takes long.

On a terminal a long step has a bar; in a log it has a line every few seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_SECONDS = 1.5
"""A step that is over by then shows no bar."""
LOG_SECONDS = 10
POLL_SECONDS = 0.3


class Steps:
    """Prints, and keeps the seconds of each step."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.seconds: dict[str, float] = {}
        self._number = 0

    def say(self, text: str = "") -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        self._number += 1
        self.console.print(f"\n[bold]{self._number}. {text}[/bold]")

    def sql(self, statement: str) -> None:
        """Shows a statement as psql would."""
        self.console.print("\n".join(f"  {line}" for line in statement.strip().splitlines()),
                           style="cyan", markup=False, soft_wrap=True)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds that the block takes to `seconds[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = self.seconds.get(name, 0) + time.perf_counter() - start
            self.seconds[name] = round(taken, 3)

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[..., None]]:
        """Yields report(done, total, note="")."""
        started = last = time.monotonic()
        live = Progress(TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn(),
                        TimeElapsedColumn(), TimeRemainingColumn(), console=self.console,
                        transient=True) if self.console.is_terminal else None
        task = None

        def report(done: int | None, total: int | None, note: str = "") -> None:
            nonlocal last, task
            now = time.monotonic()
            text = f"{what}{': ' + note if note else ''}"
            if live is not None:
                if task is None and now - started > QUIET_SECONDS:
                    live.start()
                    task = live.add_task(text, total=None)
                if task is not None:
                    live.update(task, description=text, completed=done or 0, total=total or None)
            elif now - last > LOG_SECONDS:
                last = now
                share = f" {100 * (done or 0) / total:.0f} %" if total else ""
                self.say(f"  ... {text}{share}, {now - started:.0f} s")

        try:
            yield report
        finally:
            if task is not None:
                live.stop()

    def call(self, name: str, statement: str, connection: psycopg.Connection,
             watcher: psycopg.Connection) -> None:
        """Runs a CALL that takes long, timed as `name`, with a bar fed by pgrain.progress (the
        view that anybody can look at from another session meanwhile)."""
        self.sql(statement)
        failure: list[BaseException] = []

        def run() -> None:
            try:
                connection.execute(statement)
            except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                failure.append(error)

        with self.timed(name), self.bar(name) as report:
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            try:
                while thread.is_alive():
                    thread.join(POLL_SECONDS)
                    row = watcher.execute("SELECT done, total, coalesce(message, phase, state)"
                                          " FROM pgrain.progress"
                                          " ORDER BY state = 'running' DESC, job LIMIT 1"
                                          ).fetchone()
                    if row:
                        report(*row)
            except KeyboardInterrupt:
                connection.cancel_safe()
                thread.join()
                raise
        if failure:
            raise failure[0]
        self.say(f"  done in {self.seconds[name]:.1f} s")
