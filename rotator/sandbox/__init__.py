"""A local Neon key API that behaves as Neon's does, and misbehaves on request.

The one fake that the tests, the demo and the `sandbox` command share:

    with Sandbox() as neon:
        ...  # talk to neon.url with neon.management_key

`account` is the model, `faults` and `limits` what may go wrong, `api` the routes and their shapes, `wire`
the HTTP, `control` the way in from another process; `server` puts them together. Nothing in here knows the
rest of the program.
"""

from rotator.sandbox.account import KeyView, Refused
from rotator.sandbox.faults import FaultError
from rotator.sandbox.server import Event, Record, Sandbox

__all__ = ["Event", "FaultError", "KeyView", "Record", "Refused", "Sandbox"]
