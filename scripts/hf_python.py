"""Scripts that need Hugging Face's transformers, which the Python that starts them may not have."""

import importlib.util
import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def in_python_with_transformers():
    """Whether this Python has the libraries; else starts the script again in one that has, if there is one:
    PLIMSOLL_HF_PYTHON or .deps/hf_venv."""
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers", "safetensors")):
        return True
    for python in (os.environ.get("PLIMSOLL_HF_PYTHON"), _ROOT / ".deps/hf_venv/bin/python"):
        if python and Path(python).exists() and not os.environ.get("PLIMSOLL_HF_TRIED"):
            os.environ["PLIMSOLL_HF_TRIED"] = "1"
            os.execv(python, [str(python), *sys.argv])
    return False
