"""The optional package ``ctranslate2``: imported where it is needed, and one clear line where it is missing."""

from __future__ import annotations

import warnings
from types import ModuleType

from seqkit.errors import UsageError

INSTALL = "pip install 'seqkit[ctranslate2]'"


def import_ctranslate2() -> ModuleType:
    """The package.

    Raises:
        UsageError: It is not installed, or cannot be loaded.
    """
    try:
        with warnings.catch_warnings():
            # What the package deprecates in itself or in others is not for our users to read.
            warnings.simplefilter("ignore")
            import ctranslate2
    except ImportError as error:
        if error.name in (None, "ctranslate2") and "ctranslate2" in str(error):
            raise UsageError("the package ctranslate2 is not installed", hint=INSTALL) from error
        raise UsageError(f"the package ctranslate2 cannot be loaded ({error})", hint=INSTALL) from error
    module: ModuleType = ctranslate2
    return module
