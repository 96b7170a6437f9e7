"""Our own package as one file, for nodes that have Ray and torch and lack us (`BERTJOBS_SEND_CODE`)."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import bertjobs
from bertjobs.config.presets import configs_dir
from bertjobs.settings import Settings

_NEVER = (1980, 1, 1, 0, 0, 0)
"""The time of every file: the same code gives the same archive."""


@dataclass(frozen=True, kw_only=True)
class CodePackage:
    """An archive that Ray unpacks on each node and puts on the path of the job's processes."""

    name: str
    """Made of the content, so that one that is there already need not be sent."""
    content: bytes = field(repr=False)


def code_to_send(settings: Settings) -> CodePackage | None:
    """Return what a job brings along; nothing where the nodes have it."""
    return package_of(_files()) if settings.sends_code else None


def package_of(files: dict[str, Path]) -> CodePackage:
    """Pack files under the names that they are to have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _NEVER), path.read_bytes(), zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    return CodePackage(name=f"_ray_pkg_{hashlib.sha1(content).hexdigest()}.zip", content=content)


def _files() -> dict[str, Path]:
    package, presets = Path(bertjobs.__file__).parent, configs_dir()
    code = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    found = {f"bertjobs/{path.relative_to(package)}": path for path in code}
    # In a checkout the presets lie beside the package; installed they lie in it, and so they do on the nodes.
    return found | {f"bertjobs/configs/{p.relative_to(presets)}": p for p in presets.rglob("*.yaml")}
