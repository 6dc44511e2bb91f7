"""What Serve carries into another process as a copy must still tell that process's own registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from ray.serve.config import RequestRouterConfig

from serving.deployments.link import MembershipRouter

ROOT = Path(__file__).parents[4]

# Within one process, a class that is unpickled is the one that was pickled. Serve's own part is left out.
IN_A_PROCESS_WITH_A_HANDLE = """
import sys
from types import SimpleNamespace as Some

from ray import cloudpickle
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter

from serving.channel.watchers import WATCHERS, ReplicaProcess
from serving.deployments import link
from serving.deployments.common import METADATA_ADDRESS, METADATA_IP, METADATA_NODE, METADATA_PID

class Deaf(PowerOfTwoChoicesRequestRouter):
    def update_replicas(self, replicas):
        pass

copy = cloudpickle.loads(sys.stdin.buffer.read())
assert copy is not link.MembershipRouter

class Router(copy, Deaf):
    def __init__(self):
        self._deployment_id = Some(app_name="m@v1")

metadata = {METADATA_ADDRESS: "unix:/run/a.sock", METADATA_NODE: "node", METADATA_IP: "10.0.0.2", METADATA_PID: "7"}
replicas = [("a", metadata), ("b", {})]
Router().update_replicas([Some(replica_id=Some(unique_id=name), replica_metadata=said) for name, said in replicas])
assert WATCHERS.live("m@v1") == 1, "nobody has told the registry of this process"
assert WATCHERS.processes("m@v1") == {"a": ReplicaProcess(7, "node", "10.0.0.2"), "b": ReplicaProcess()}
"""


def test_a_router_that_came_as_a_copy_tells_the_registry_of_its_process() -> None:
    options: dict[str, Any] = {"request_router_class": MembershipRouter}
    carried = RequestRouterConfig(**options).get_serialized_request_router_cls()
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS_WITH_A_HANDLE], cwd=ROOT, input=carried, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
