"""These tests run kernels in Triton's interpreter, decided on when a kernel is decorated: a process of its own.

tests/engine/test_kernels_interpreted.py starts it; by hand: TRITON_INTERPRET=1 python -m pytest tests/engine/kernels.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
