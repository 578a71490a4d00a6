"""Write DVC's settings for this machine (`.dvc/config.local`), and keep the user's own entries."""

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

    The file is replaced atomically, in UTF-8. Only its owner can read it, because a remote's URL may carry a
    password.

    Raises:
        ParameterError: as for `check_places`; or the file isn't UTF-8 or can't be parsed, and stays.
        StorageError: the disk refuses; the file stays as it was.
    """
    check_places(settings)
    (settings.home_dir / "dvc").mkdir(parents=True, exist_ok=True)  # DVC would make it writable by everybody
    dvc_dir = folder / ".dvc"
    dvc_dir.mkdir(parents=True, exist_ok=True)
    (dvc_dir / "config").touch()
    _read(dvc_dir / "config")  # raises an error that names the file; DVC's own wouldn't
    local = dvc_dir / "config.local"
    config = _read(local)
    for name, values in _entries(folder, settings).items():
        _set(config, name, values, local)
    text = _text(config)
    if not local.exists() or local.read_bytes() != text.encode():
        write_private(local.resolve(), text)  # replaces the target of a link; the link stays
    local.chmod(0o600)


def _entries(folder: Path, settings: Settings) -> dict[str, dict[str, str]]:
    """Return section -> key -> value of the entries that skumatch sets."""
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
    """Return whether DVC may use git: only in the project, not in a workspace below it, and if git works."""
    try:
        return folder.resolve() == settings.project.resolve() and bool(checkout(folder, holding="dvc.yaml"))
    except (NoRepository, CodeError):  # data is stored without git; steps that need git raise the error
        return False


def _read(path: Path) -> ConfigObj:
    """Parse a file of settings as DVC does, and keep its comments; empty where there is none."""
    try:
        text = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
        return ConfigObj(io.StringIO(text, newline=""), interpolation=False, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"byte {error.start} isn't UTF-8") from error
    except ConfigObjError as error:
        raise _unreadable(path, str(error).splitlines()[-1].rstrip(".")) from error


def _set(config: ConfigObj, name: str, values: Mapping[str, str], path: Path) -> None:
    """Set the keys of `values` in the section `name`, however the file spells it.

    DVC reads names of sections and keys in lower case, and takes the last of several that are then equal. So
    the last such section is used, and other spellings of the keys are deleted from it.
    """
    spelled = [known for known in config if _plain(known) == name]
    section = config.setdefault(spelled[-1] if spelled else name, {})
    if not isinstance(section, Section):
        raise _unreadable(path, f"'{name}' is no section")
    for key in [key for key in section if key.lower() in values and key not in values]:
        del section[key]
    section.update(values)


def _plain(name: str) -> str:
    """Return a section's name as DVC reads it."""
    return NAMED.sub(r'\1 "\2"', name.lower())


def _text(config: ConfigObj) -> str:
    stream = io.BytesIO()
    config.write(stream)
    return stream.getvalue().decode("utf-8")


def _unreadable(path: Path, reason: str) -> ParameterError:
    return ParameterError(f"DVC's settings in {path} can't be read: {reason}; correct the file.")
