"""Find the file of a split by the names under which tasks are published: in a folder, a zip, or the cache."""

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from bertjobs.errors import DataError
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import archive_of, files_of
from bertjobs.text.source_file import SourceFile, data_errors, open_archive


def downloads_dir(cache: Path) -> Path:
    """Return the folder of the downloaded archives."""
    return cache / "downloads"


def split_names(task: Task) -> list[str]:
    """Return the names that `--split` knows for a task; anything else is the path of a file."""
    return list(files_of(task).names)


def expand_splits(task: Task, splits: str) -> tuple[str, ...]:
    """Return the names that `splits` stands for: a group such as MNLI's `dev`, or names between commas.

    Anything else is one split: its name, or the path of a file.
    """
    files = files_of(task)
    names = [name.strip() for name in splits.split(",")]
    if not all(name in files.names or name in files.groups for name in names):
        return (splits,)
    return tuple(dict.fromkeys(part for name in names for part in files.groups.get(name, (name,))))


def find_split(task: Task, path: str | None, *, split: str, cache: Path) -> SourceFile:
    """Return the file of a split; `split` is a name, or the path of a file.

    Raises: DataError: there is none; the message says where it was looked for.
    """
    if split not in files_of(task).names:
        return _given_file(task, path, split)
    root = _root(task, path, cache)
    found = _find_named(task, root, split)
    if found is None and root.is_file() and root.suffix != ".zip":
        raise DataError(
            f"{root} is one file, so it has no {split!r} split",
            hint="Give a folder or zip that has it (--data), or the path of one file (--split).",
        )
    if found is None:
        raise DataError(
            f"{root} has no {split!r} split of {task.name} (looked for "
            f"{_listing(files_of(task).names[split])})",
            hint="Give the folder or zip that holds it (--data), or the path of one file (--split).",
        )
    return found


def has_split(task: Task, path: str | None, *, split: str, cache: Path) -> bool:
    """Return whether a named split is there. Raises: DataError: the data itself is not, or is damaged."""
    return _find_named(task, _root(task, path, cache), split) is not None


def existing_splits(task: Task, path: str | None, *, cache: Path) -> list[str]:
    """Return the names of the splits that are there, one for each file: CoLA's `dev` has two names.

    Raises: DataError: there is none, or the data itself is missing or damaged.
    """
    found: dict[SourceFile, str] = {}
    for split in split_names(task):
        if has_split(task, path, split=split, cache=cache):
            found.setdefault(find_split(task, path, split=split, cache=cache), split)
    if not found:
        find_split(task, path, split=split_names(task)[0], cache=cache)  # raises, and says what is missing
    return list(found.values())


def default_valid_split(task: Task, path: str | None, *, cache: Path) -> str | None:
    """Return the split to validate on where the user names none; None where rows of `train` are held out.

    Raises: DataError: the data is not there, or is damaged.
    """
    is_one_table = path is not None and Path(path).is_file() and not path.endswith(".zip")
    if files_of(task).holds_out_validation or is_one_table:
        return None
    names = [name for name in expand_splits(task, "dev") if has_split(task, path, split=name, cache=cache)]
    return ",".join(names) if names else None


def _given_file(task: Task, path: str | None, split: str) -> SourceFile:
    folder = Path(path) if path is not None else Path()
    for candidate in (Path(split).expanduser(), folder / split):
        with data_errors(SourceFile(candidate)):
            is_there = candidate.is_file()
        if is_there:
            return SourceFile(candidate)
    raise DataError(
        f"--split {split}: there is no such file, and it is not a split of {task.name}",
        hint=f"Choose one of {', '.join(files_of(task).names)}, or give the path of a file.",
    )


def _root(task: Task, path: str | None, cache: Path) -> Path:
    if path is not None:
        root = Path(path).expanduser()
        with data_errors(SourceFile(root)):  # a name that is too long, a folder that may not be entered
            is_there = root.exists()
        if not is_there:
            raise DataError(f"--data {path}: there is no such folder or file", hint="Check the path.")
        return root
    archive = archive_of(task.name)
    if archive is None:
        hint = files_of(task).by_hand or "Give its folder or file (--data)."
        raise DataError(f"The task {task.name} needs its data", hint=hint)
    root = downloads_dir(cache) / archive
    if not root.exists():
        raise DataError(
            f"No data was given for {task.name}, and none has been downloaded ({root} does not exist)",
            hint=f"Run `bertjobs data get {task.name}`, or give a folder or zip (--data).",
        )
    return root


def _find_named(task: Task, root: Path, split: str) -> SourceFile | None:
    names = [
        str(PurePosixPath(folder) / name)
        for name in files_of(task).names[split]
        for folder in files_of(task).folders
    ]
    if root.is_dir():
        return _first(names, lambda name: (root / name).is_file(), lambda name: SourceFile(root / name))
    if root.suffix == ".zip":
        with open_archive(root) as archive:
            members = {_without_top(m): m for m in archive.namelist() if not m.startswith("__MACOSX/")}
            members |= {m: m for m in archive.namelist()}
        return _first(names, members.__contains__, lambda name: SourceFile(root, members[name]))
    return SourceFile(root) if split == "train" else None  # a single table is trained on


def _first(
    names: Iterable[str], is_there: Callable[[str], bool], as_source: Callable[[str], SourceFile]
) -> SourceFile | None:
    return next((as_source(name) for name in names if is_there(name)), None)


def _without_top(member: str) -> str:
    """Return a member's path without its top folder, which may have any name."""
    top, _, rest = member.partition("/")
    return rest or top


def _listing(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown}, ..."
