"""DVC's settings on this machine, `.dvc/config.local`: our entries are set, the user's own stay."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

from configobj import ConfigObj, ConfigObjError, Section

from skumatch.config import Settings, check_places
from skumatch.errors import CodeError, ParameterError
from skumatch.files import write_private
from skumatch.git import NoRepository, checkout

REMOTE = "shared"
NAMED = re.compile(r'\s*(remote|machine|db)\s*"(.*)"\s*')


def configure(folder: Path, settings: Settings) -> None:
    """Make `folder` a DVC repository that uses this machine's cache and the shared remote.

    The file is replaced as a whole, in UTF-8 and for its owner only: a remote's URL may carry a password.

    Raises:
        ParameterError: see `check_places`; or settings that aren't UTF-8 or can't be parsed, which stay.
        StorageError: the disk refuses; the file is as it was before.
    """
    check_places(settings)
    (settings.home_dir / "dvc").mkdir(parents=True, exist_ok=True)  # DVC would make it writable by everybody
    dvc_dir = folder / ".dvc"
    dvc_dir.mkdir(parents=True, exist_ok=True)
    (dvc_dir / "config").touch()
    _read(dvc_dir / "config")  # DVC's own error would not name the file
    local = dvc_dir / "config.local"
    config = _read(local)
    for name, values in _entries(folder, settings).items():
        _set(config, name, values, local)
    text = _text(config)
    if not local.exists() or local.read_bytes() != text.encode():
        write_private(local.resolve(), text)  # what a link points to is replaced, the link stays
    local.chmod(0o600)


def _entries(folder: Path, settings: Settings) -> dict[str, dict[str, str]]:
    """Our entries, by section."""
    core = {
        "remote": REMOTE,
        "analytics": "false",
        "check_update": "false",
        "no_scm": str(not _under_git(folder, settings)).lower(),
        "site_cache_dir": str(settings.home_dir / "dvc"),
    }
    cache = {"dir": str(settings.home_dir / "cache"), "type": "hardlink,copy"}
    remote = {"url": settings.remote_url, "verify": "true"}
    return {"core": core, "cache": cache, f'remote "{REMOTE}"': remote}


def _under_git(folder: Path, settings: Settings) -> bool:
    """Whether DVC may look for git: in the project, not in a workspace below it, and where git answers."""
    try:
        return folder.resolve() == settings.project.resolve() and bool(checkout(folder, holding="dvc.yaml"))
    except (NoRepository, CodeError):  # what needs git says so itself; data is stored without
        return False


def _read(path: Path) -> ConfigObj:
    """A file of settings, parsed as DVC does, with its comments; empty where there is none."""
    try:
        text = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
        return ConfigObj(io.StringIO(text, newline=""), interpolation=False, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"byte {error.start} isn't UTF-8") from error
    except ConfigObjError as error:
        raise _unreadable(path, str(error).splitlines()[-1].rstrip(".")) from error


def _set(config: ConfigObj, name: str, values: Mapping[str, str], path: Path) -> None:
    """Set the keys that DVC will read as `values` in the section that it will read as `name`.

    DVC takes names of sections and keys in lower case, and the last of several that are then equal.
    """
    spelled = [known for known in config if _plain(known) == name]
    section = config.setdefault(spelled[-1] if spelled else name, {})
    if not isinstance(section, Section):
        raise _unreadable(path, f"'{name}' is no section")
    for key in [key for key in section if key.lower() in values and key not in values]:
        del section[key]
    section.update(values)


def _plain(name: str) -> str:
    """A section's name as DVC reads it."""
    return NAMED.sub(r'\1 "\2"', name.lower())


def _text(config: ConfigObj) -> str:
    stream = io.BytesIO()
    config.write(stream)
    return stream.getvalue().decode("utf-8")


def _unreadable(path: Path, reason: str) -> ParameterError:
    return ParameterError(f"DVC's settings in {path} can't be read: {reason}; correct the file.")
