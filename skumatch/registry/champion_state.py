"""Whether there is a champion, and if not, why: the one place that tells these states apart.

MLflow removes a version's aliases together with the version. So the alias alone doesn't say whether there
never was a champion, somebody removed the alias, or somebody deleted the version; the journal does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from skumatch.registry.journal import Entry, last_champion, move_since, ways_back

CHAMPION = "champion"
Kind = Literal["serves", "moved", "never", "removed", "deleted"]


@dataclass(frozen=True)
class ChampionState:
    """The state of the alias `champion`.

    Attributes:
        kind: `serves`: it names a version. `moved`: it does, but not the one that the journal ends with.
            `never`: no version ever was champion. `removed`: the alias was removed, and its version is there.
            `deleted`: its version was deleted.
        model: name of the registered model.
        version: the version that serves; None if there is none.
        last: the last champion that the journal names; None if it names none.
        next: where none serves, the version that can: of a rollback, or the first challenger; None without.
    """

    kind: Kind
    model: str
    version: int | None
    last: int | None
    next: int | None

    @property
    def sentence(self) -> str:
        """The state in words, without a full stop."""
        now = f"{self.model} has no champion now"
        return {
            "serves": f"{self.model} has version {self.version} as champion",
            "moved": f"the champion of {self.model} was moved by hand, from {_words(self.last)} "
            f"to version {self.version}",
            "never": f"{self.model} has no champion yet",
            "removed": f"{now}: the alias of version {self.last} was removed in MLflow",
            "deleted": f"{now}: its version {self.last} was deleted in MLflow",
        }[self.kind]

    @property
    def cure(self) -> str:
        """What to do, without a full stop; empty where nothing has to be done."""
        if self.kind == "moved":
            back = f"`skumatch rollback {self.last}` moves it back; " if self.last else ""
            return f'{back}`skumatch audit acknowledge --why "..."` records why it was moved'
        if self.kind == "serves":
            return ""
        first = self.kind == "never"
        if self.next is None:
            return f"`skumatch retrain` makes {'the first' if first else 'a new one'}"
        if first:
            return f"`skumatch promote` makes version {self.next} the first"
        return f"`skumatch rollback` makes version {self.next} the champion again"


def champion_state(
    model: str,
    alias: int | None,
    challenger: int | None,
    existing: Collection[int],
    entries: Sequence[Entry],
) -> ChampionState:
    """Tell the state of a model's champion.

    Args:
        model: name of the registered model.
        alias: the version that the alias `champion` names; None without it.
        challenger: the version that the alias `challenger` names; None without it.
        existing: numbers of the versions that exist.
        entries: the entries of its journal.
    """
    version = alias if alias in existing else None
    last = last_champion(entries) or alias
    if version is not None:
        moved = move_since(entries, version)
        kind: Kind = "moved" if moved and moved.unexplained else "serves"
        return ChampionState(kind, model, version, last, None)
    if last is None:
        return ChampionState("never", model, None, None, challenger)
    back = next((number for number in ways_back(entries, None) if number in existing), None)
    return ChampionState("removed" if last in existing else "deleted", model, None, last, back)


def _words(version: int | None) -> str:
    return f"version {version}" if version else "none"
