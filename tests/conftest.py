"""One thread, and a cache of emitted modules of the session's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import torch

    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setenv("MIRAS_SEARCH_CACHE", str(tmp_path_factory.mktemp("emitted")))
    yield
    patch.undo()
