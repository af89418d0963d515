"""Where the films come from: one reader a source, each returning manifest rows.

`SOURCES` maps a source's name to its reader. All but ``phantom``, which draws its films, read from a folder that the
user names.
"""

from __future__ import annotations

from covidxr.sources import covid_chestxray, darkcovidnet, figure1, kaggle_chest_xray, phantom, table
from covidxr.sources._rows import manifest_rows as manifest_rows  # for readers of one's own
from covidxr.sources.phantom import make_phantom as make_phantom

SOURCES = {
    "phantom": phantom.read,
    "covid-chestxray": covid_chestxray.read,
    "kaggle-chest-xray": kaggle_chest_xray.read,
    "darkcovidnet": darkcovidnet.read,
    "figure1": figure1.read,
    "table": table.read,
}
