"""The screen of `bertjobs top`: the list above, one job below, keys at the bottom.

What it shows is in `view`, what it reads in `queue_reader`. Reading and changing happen in threads, so that
keys are answered while Redis is not.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Input, Static

from bertjobs.cli.output.formatting import printable
from bertjobs.cli.output.render import COLOURS
from bertjobs.cli.top import view
from bertjobs.cli.top.queue_reader import QueueReader, Snapshot
from bertjobs.errors import BertjobsError
from bertjobs.jobs.job import Job, JobSummary
from bertjobs.jobs.queue import JobQueue
from bertjobs.jobs.store.job_store import MAX_PRIORITY

REFRESH_S = 1.0


class Confirmation(ModalScreen[bool]):
    """Asks whether to do something; `y` does it, any other way out does not."""

    BINDINGS: ClassVar = [("y", "answer(True)", "Yes"), ("n,escape,q", "answer(False)", "No")]

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        yield Static(Text(f"{self.question}\n\ny: yes   n: no"), id="dialog")

    def action_answer(self, is_yes: bool) -> None:
        self.dismiss(is_yes)


class PriorityPrompt(ModalScreen[int | None]):
    """Asks for a priority."""

    BINDINGS: ClassVar = [("escape", "dismiss(None)", "Back")]

    def __init__(self, job: JobSummary) -> None:
        super().__init__()
        self.job = job

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(
                f"Priority of {self.job.id}, {-MAX_PRIORITY} to {MAX_PRIORITY}; higher goes first.",
                id="question",
            )
            yield Input(value=str(self.job.priority), type="integer", id="priority")

    @on(Input.Submitted)
    def submit(self, event: Input.Submitted) -> None:
        try:
            value = int(event.value)
        except ValueError:
            value = MAX_PRIORITY + 1
        if abs(value) > MAX_PRIORITY:
            self.query_one("#question", Static).update(
                f"Give a number from {-MAX_PRIORITY} to {MAX_PRIORITY}."
            )
            return
        self.dismiss(value)


class TopApp(App[None]):
    """The queue, live."""

    TITLE = "bertjobs top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: 1; background: $primary-darken-2; }
    #problem { height: auto; max-height: 2; background: $error; display: none; }
    #filter { height: 1; border: none; display: none; }
    #jobs { height: 1fr; min-height: 5; }
    #detail { height: 11; border-top: solid $primary; }
    #dialog { width: 60; height: auto; padding: 1 2; border: thick $primary; background: $surface; }
    Confirmation, PriorityPrompt { align: center middle; }
    """
    BINDINGS: ClassVar = [
        Binding("q", "quit", "Quit"),
        Binding("c", "change('cancel')", "Cancel"),
        Binding("h", "change('hold')", "Hold"),
        Binding("r", "change('release')", "Release"),
        Binding("t", "change('retry')", "Retry"),
        Binding("p", "prioritize", "Priority"),
        Binding("l", "toggle_log", "Log"),
        Binding("slash", "filter", "Find", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("e", "toggle_ended", "Ended"),
        Binding("escape", "clear_filter", "Clear the filter", show=False),
    ]

    def __init__(self, reader: QueueReader, *, user: str) -> None:
        super().__init__()
        self._reader, self._user = reader, user
        self._snapshot = Snapshot()
        self._words, self._sort, self._with_ended, self._with_log = "", next(iter(view.SORTS)), True, False
        self._selected: str | None = None
        self._is_reading = False
        self._main: Screen[Any] = Screen()

    def compose(self) -> ComposeResult:
        yield Static(id="summary")
        yield Static(id="problem")
        yield Input(placeholder="words to look for; Enter keeps them, Esc clears them", id="filter")
        yield DataTable(id="jobs", cursor_type="row", zebra_stripes=True)
        yield Static(id="detail")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self._main = self.screen  # a query on the app would search the dialog that is open
        self._main.query_one(DataTable).focus()
        self.set_interval(REFRESH_S, self.reread)
        self.reread()

    # -- reading

    def reread(self) -> None:
        """Read the queue again, unless the last reading has not ended: Redis may be away."""
        if not self._is_reading:
            self._is_reading = True
            self._read()

    @work(thread=True)
    def _read(self) -> None:
        try:
            snapshot = self._reader.read(self._selected, with_log=self._with_log)
        finally:
            self._is_reading = False
        self.call_from_thread(self.show, snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot."""
        if not self._main.query("#problem"):
            return  # it was read while the screen was closed
        self._snapshot = snapshot
        problem = self._main.query_one("#problem", Static)
        problem.display = bool(snapshot.problem)
        problem.update(Text(f"{printable(snapshot.problem)}. Trying again; what is shown is old."))
        self._show_list()
        self._show_detail()

    def _show_list(self) -> None:
        jobs = view.chosen(
            self._snapshot.jobs, words=self._words, sort=self._sort, with_ended=self._with_ended
        )
        shown = f"   filter: {self._words}" if self._words else ""
        hidden = "" if self._with_ended else "   without ended"
        text = f"{view.summary_line(self._snapshot.jobs)}   by {self._sort}{shown}{hidden}"
        self._main.query_one("#summary", Static).update(Text(text, no_wrap=True, overflow="ellipsis"))
        table, now = self._main.query_one(DataTable), datetime.now(UTC)
        is_wide = self.size.width >= view.WIDE
        kept = self._selected if any(job.id == self._selected for job in jobs) else None
        with self.prevent(DataTable.RowHighlighted):
            scroll = table.scroll_offset
            table.clear(columns=True)
            table.add_columns(*view.header(is_wide=is_wide))
            for job in jobs:
                cells = [Text(cell) for cell in view.row(job, is_wide=is_wide, now=now)]
                cells[1].stylize(COLOURS[job.state])
                table.add_row(*cells, key=job.id)
            if jobs:
                self._selected = kept or jobs[min(table.cursor_row, len(jobs) - 1)].id
                table.move_cursor(row=[job.id for job in jobs].index(self._selected), scroll=False)
                table.scroll_to(0, scroll.y, animate=False)
            else:
                self._selected = None

    def _show_detail(self) -> None:
        pane, job = self._main.query_one("#detail", Static), self._snapshot.selected
        if job is None or job.id != self._selected:
            if self._selected is None:
                pane.update(
                    Text("No job is selected. `bertjobs submit finetune --help` shows how to submit one.")
                )
            return
        width, height = max(10, pane.size.width), max(1, pane.size.height)
        lines = view.facts(job, now=datetime.now(UTC))
        room = height - len(lines)
        if self._with_log:
            lines += [printable(line) for line in self._snapshot.log[-room:]] if room > 0 else []
        elif self._snapshot.losses and room > 1:
            lines += view.curve(self._snapshot.losses, width=width - 5, height=room)
            lines[-room] += " loss"
        text = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
        text.stylize(f"bold {COLOURS[job.state]}", 0, len(lines[0]))
        pane.update(text)

    @on(DataTable.RowHighlighted)
    def select(self, event: DataTable.RowHighlighted) -> None:
        if event.row_key is not None and event.row_key.value != self._selected:
            self._selected = event.row_key.value
            self._main.query_one("#detail", Static).update(Text(f"{self._selected} ..."))
            self.reread()

    # -- keys

    def action_change(self, change: str) -> None:
        """Ask, then cancel, hold, release or retry the selected job."""
        if (job_id := self._selected) is None:
            return
        changes: dict[str, Callable[[JobQueue], Job]] = {
            "cancel": lambda store: store.cancel(job_id, by=self._user),
            "hold": lambda store: store.hold(job_id, by=self._user),
            "release": lambda store: store.release(job_id),
            "retry": lambda store: store.retry(job_id),
        }

        def decide(is_yes: bool | None) -> None:
            if is_yes:
                self._change(changes[change])

        self.push_screen(Confirmation(f"{change.capitalize()} {self._named(job_id)}?"), decide)

    def action_prioritize(self) -> None:
        """Ask for a priority of the selected job."""
        job = next((job for job in self._snapshot.jobs if job.id == self._selected), None)
        if job is None:
            return

        def decide(priority: int | None) -> None:
            if priority is not None:
                self._change(lambda store: store.prioritize(job.id, priority, by=self._user))

        self.push_screen(PriorityPrompt(job), decide)

    @work(thread=True)
    def _change(self, change: Callable[[JobQueue], Job]) -> None:
        try:
            job = change(self._reader.store)
            self.notify(f"{job.id} is {job.state}", markup=False)
        except BertjobsError as e:
            self.notify(f"{e.message}. {e.hint}", severity="error", markup=False)
        self.call_from_thread(self.reread)

    def _named(self, job_id: str) -> str:
        name = next((job.name for job in self._snapshot.jobs if job.id == job_id), "")
        return f"{job_id} ({printable(name)})" if name else job_id

    def action_toggle_log(self) -> None:
        """Show the log instead of the curve, or the curve again."""
        self._with_log = not self._with_log
        self.reread()

    def action_toggle_ended(self) -> None:
        """Show or hide ended jobs."""
        self._with_ended = not self._with_ended
        self._show_list()

    def action_sort(self) -> None:
        """Take the next order of the list."""
        names = list(view.SORTS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self._show_list()

    def action_filter(self) -> None:
        """Let words be typed that the shown jobs contain."""
        field = self._main.query_one("#filter", Input)
        field.display = True
        field.focus()

    def action_clear_filter(self) -> None:
        """Show all jobs again."""
        self._main.query_one("#filter", Input).value = ""
        self._close_filter()

    @on(Input.Changed, "#filter")
    def filter(self, event: Input.Changed) -> None:
        self._words = event.value
        self._show_list()

    @on(Input.Submitted, "#filter")
    def _close_filter(self) -> None:
        self._main.query_one("#filter", Input).display = False
        self._main.query_one(DataTable).focus()
        self.reread()
