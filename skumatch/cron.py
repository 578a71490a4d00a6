"""Check of cron texts by croniter, which Airflow uses too; dags/recipe.py repeats the check."""

from __future__ import annotations

PRESETS = {"@quarterly": "0 0 1 */3 *"}  # Airflow's own; croniter knows the others


def cron_problem(text: str) -> str:
    """Return why Airflow can't schedule by a cron text, as part of a sentence; empty for a valid text.

    Args:
        text: Five fields (six or seven with seconds and years), or a preset such as `@daily`.
    """
    from croniter import croniter  # takes a moment to import, and most parameters need none
    from croniter.croniter import CroniterBadDateError, CroniterError

    try:
        moments = croniter(PRESETS.get(text, text))
        moments.get_next()
        moments.get_prev()
    except CroniterBadDateError:
        return "no such day comes again and again"
    except CroniterError:
        return "it is no text that cron reads"
    return ""
