"""For scripts that need packages which the Python that runs them may lack. Imports nothing but the standard library."""

import os
import sys
from pathlib import Path


def try_another_python(script):
    """Starts `script` again with a Python that may have the packages: this checkout's .venv, then the system's. Returns
    if both were tried."""
    tried = os.environ.get("PLIMSOLL_REPORT_TRIED", "").split(os.pathsep)
    own = Path(__file__).resolve().parents[2] / ".venv/bin/python"
    for python in (str(own), "/usr/bin/python3"):
        if python not in tried and os.access(python, os.X_OK):
            os.environ["PLIMSOLL_REPORT_TRIED"] = os.pathsep.join([*tried, python])
            os.execv(python, [python, os.path.abspath(script), *sys.argv[1:]])
