"""The gRPC port of a Ray Serve replica, which Ray 2.60 opens at every address, also where the rest of Ray is at loopback."""

import ray
from ray._common.network_utils import build_address
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica

from contract.auth import is_loopback


def listen_where_ray_does() -> None:
    """For the constructors of deployments: the replica opens its port after them.

    Where the machine's address in Ray is loopback, nobody else calls it there; in a cluster the other machines may.
    """
    address = ray.util.get_node_ip_address()
    if is_loopback(address):
        replica.add_port_to_grpc_server = lambda server, _: add_port_to_grpc_server(server, build_address(address, 0))
