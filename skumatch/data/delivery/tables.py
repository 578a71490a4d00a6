"""CSV tables that come with a delivery, or that list pictures."""

from __future__ import annotations

import io
import warnings

import pandas as pd

from skumatch.errors import DataError
from skumatch.texts import alike, decode


def read_csv(data: bytes, where: str, cure: str) -> pd.DataFrame:
    """Read a CSV table with all values as text; none becomes a number or a missing value.

    Args:
        data: the whole file, in an encoding that `texts.decode` reads.
        where: its name, for the sentence of an error.
        cure: what to do about an error.

    Returns:
        The rows; columns are named in lower case, without blanks around them.

    Raises:
        DataError: for bytes that are no text, or no table.
    """
    text = decode(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more values than the header
            table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        too_long = isinstance(error, pd.errors.ParserWarning)
        reason = "a row has more values than the header" if too_long else " ".join(str(error).split())
        raise DataError(f"{where} can't be read as a table ({reason}); {cure}.") from error
    table.columns = pd.Index([alike(str(name)) for name in table.columns])
    return table
