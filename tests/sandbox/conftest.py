from collections.abc import Iterator

import pytest

from rotator.sandbox import Sandbox

from .client import Api, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def neon(clock: Clock) -> Iterator[Sandbox]:
    with Sandbox(now=clock, organizations={"org-other": ["other-project"]}) as neon:
        yield neon


@pytest.fixture
def api(neon: Sandbox) -> Iterator[Api]:
    with Api(neon, neon.management_key) as api:
        yield api
