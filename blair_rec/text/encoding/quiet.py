"""Keep the output of transformers off the terminal while it loads or trains a model: a library prints nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within this block transformers draws no progress bar and logs errors only; afterwards its settings are as before.

    Its table of missing and unexpected weights is a warning too. Code that loads a model here has to check the weights.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
