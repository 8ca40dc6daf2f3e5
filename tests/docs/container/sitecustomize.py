"""Resolve names as in a container: without the host's network, only ``host.docker.internal`` reaches this machine.

In a container of a compose file, so does the name of each service, which ``CONTAINER_NETWORK`` holds.
"""

import os
import socket

_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host, *args, **options):
    if os.environ["CONTAINER_NETWORK"] == "host":
        return _getaddrinfo(host, *args, **options)
    if host != "host.docker.internal":
        raise OSError(f"no process in this container listens on {host}")
    return _getaddrinfo("127.0.0.1", *args, **options)


socket.getaddrinfo = getaddrinfo
