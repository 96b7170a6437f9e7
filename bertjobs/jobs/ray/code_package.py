"""Our own package as one archive, for nodes that have Ray and torch but not bertjobs
(`BERTJOBS_SEND_CODE`)."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import bertjobs
from bertjobs.config.presets import configs_dir
from bertjobs.settings import Settings

_FILE_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file in the archive, so that the same code gives the same archive."""


@dataclass(frozen=True, kw_only=True)
class CodePackage:
    """An archive that Ray unpacks on each node and puts on the path of the job's processes."""

    name: str
    """Contains a hash of the content, so that an archive that is there already need not be sent."""
    content: bytes = field(repr=False)


def code_to_send(settings: Settings) -> CodePackage | None:
    """Return the archive to send with each job; None where the nodes have bertjobs."""
    return package_of(_files()) if settings.sends_code else None


def package_of(files: dict[str, Path]) -> CodePackage:
    """Pack files under the given names in the archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _FILE_TIME), path.read_bytes(), zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    return CodePackage(name=f"_ray_pkg_{hashlib.sha1(content).hexdigest()}.zip", content=content)


def _files() -> dict[str, Path]:
    package, presets = Path(bertjobs.__file__).parent, configs_dir()
    code = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    found = {f"bertjobs/{path.relative_to(package)}": path for path in code}
    # In a checkout the presets are beside the package; in an installation, and so on the nodes, inside it.
    return found | {f"bertjobs/configs/{p.relative_to(presets)}": p for p in presets.rglob("*.yaml")}
