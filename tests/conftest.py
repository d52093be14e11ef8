"""One thread, a cache of emitted modules of the session's own, and draws that do not mind a busy machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"

# A clock has no say in what passes: neither how long an example takes nor how long it takes to draw one.
settings.register_profile("clockless", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("clockless")


@pytest.fixture(scope="session", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import torch

    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setenv("MIRAS_SEARCH_CACHE", str(tmp_path_factory.mktemp("emitted")))
    yield
    patch.undo()
