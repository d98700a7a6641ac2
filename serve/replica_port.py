"""The gRPC port of a Ray Serve replica, which Ray 2.60 opens at every address, even where the rest of Ray is at loopback."""

import ray
from ray._common.network_utils import build_address
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica

from contract.auth import is_loopback


def bind_to_node_address() -> None:
    """To be called in a deployment's constructor: Ray opens the replica's port after that.

    Changes nothing in a cluster, where the address of the node isn't loopback and other machines may call the replica.
    """
    address = ray.util.get_node_ip_address()
    if is_loopback(address):
        replica.add_port_to_grpc_server = lambda server, _: add_port_to_grpc_server(server, build_address(address, 0))
