"""Parkinson's telemonitoring: 5,875 voice recordings of 42 patients (Tsanas, Little, McSharry and Ramig, 2010)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlcore.files import folder_with, needed_folder

_FOLDER, _FILE = "parkinsons", "parkinsons_updrs.csv"
_ROWS, _PATIENTS, _COLUMNS = 5_875, 42, 22


class Recordings(NamedTuple):
    """One row a recording."""

    patient: np.ndarray  # [n], 1 to 42
    day: np.ndarray  # [n], since the patient's trial began
    person: np.ndarray  # [n, 2], age and sex
    voice: np.ndarray  # [n, 16], measures of the voice
    motor: np.ndarray  # [n], motor UPDRS
    total: np.ndarray  # [n], total UPDRS; assessed at three visits, and drawn as straight lines between them


def find_parkinsons(root: Path) -> Path | None:
    """The folder under ``root`` that holds the telemonitoring data; None when there is none."""
    return folder_with(root / _FOLDER, _FILE)


def parkinsons(*, root: Path | str | None = None) -> Recordings:
    """All recordings, by patient and day.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
        ValueError: a file that is truncated or damaged.
    """
    folder = needed_folder(_FOLDER, _FILE, root=root, what="Parkinson's data")
    try:
        table = np.loadtxt(folder / _FILE, delimiter=",", skiprows=1, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{folder / _FILE} is truncated or damaged ({error}); get it again.") from error
    patients = len(np.unique(table[:, 0]))
    if table.shape != (_ROWS, _COLUMNS) or patients != _PATIENTS:
        raise ValueError(
            f"{folder / _FILE} has {len(table):,} rows of {patients} patients, not {_ROWS:,} of {_PATIENTS}; get it "
            "again."
        )
    table = table[np.lexsort((table[:, 3], table[:, 0]))]
    return Recordings(table[:, 0].astype(int), table[:, 3], table[:, 1:3], table[:, 6:], table[:, 4], table[:, 5])


def visits(recordings: Recordings) -> Recordings:
    """The same, the recordings of one patient within half a day being one visit: the means of all."""
    new = (np.diff(recordings.patient, prepend=-1) != 0) | (np.diff(recordings.day, prepend=-99) > 0.5)
    starts = np.flatnonzero(new)
    count = np.diff(starts, append=len(new))
    means = (
        (np.add.reduceat(part, starts, axis=0).T / count).T
        for part in (recordings.patient.astype(float), *recordings[1:])
    )
    patient, *others = means
    return Recordings(patient.round().astype(int), *others)
