"""The settings of a set of data, as its table in the settings file says them."""

import json
import tomllib
from dataclasses import asdict, dataclass, field
from zlib import crc32


@dataclass(frozen=True)
class Settings:
    """How arms are compared on one set. The settings file says what it chose, and why.

    Parameters
    ----------
    metric : {"accuracy", "balanced_accuracy", "average_precision", "log_loss"}
        Decides the target, and which learning rate is the best; all are recorded.
    net : {"transformer", "bag"}
        Of texts; other data have one net each.
    width : int or None
        Units of the hidden layers, of images the channels of the first one; None for the net's own number.
    n_train : int or None
        Training rows, a subsample drawn once; None for all.
    batch_size, epochs : int
        Of the uniform arm; the others have as many epochs, of fewer rows.
    share : float
        Share of the rows (of the candidates of a stream) that the selective arms train on.
    rates : list of float
        Learning rates that every arm is tuned over.
    optimiser : {"sgd", "adam"}
        The former with a momentum of 0.9.
    evaluations : int
        During the uniform arm's run; the others are evaluated after as many rows each.
    seeds : int
        Number of timed runs of every arm.
    first_seed : int
        Of the timed runs, so that none of them was looked at while the settings were chosen.
    n_candidates : int or None
        Rows of a stream that arrive together; None for data seen many times.
    sampling : dict
        ``exponent``, ``uniform_share`` and ``clip`` of every arm that draws by scores.
    sketch : dict
        What the sketch's sampler or selector is given beside these; ``switch = "off"`` stands for None.
    variants : dict
        Further arms by name: ``of`` names the arm, the rest changes its options.
    """

    metric: str
    batch_size: int
    rates: list
    share: float
    net: str = "transformer"
    width: int | None = None
    n_train: int | None = None
    epochs: int = 1
    optimiser: str = "adam"
    evaluations: int = 20
    seeds: int = 5
    first_seed: int = 0
    n_candidates: int | None = None
    sampling: dict = field(default_factory=dict)
    sketch: dict = field(default_factory=dict)
    variants: dict = field(default_factory=dict)

    def fingerprint(self):
        """Return a number that differs if what is measured does; more seeds or variants are no difference."""
        told = {key: value for key, value in asdict(self).items() if key not in ("seeds", "variants")}
        return crc32(json.dumps(told, sort_keys=True).encode())


def read_settings(file):
    """Return the settings of all sets in a TOML file, by name."""
    with open(file, "rb") as stream:
        return {name: Settings(**table) for name, table in tomllib.load(stream).items()}
