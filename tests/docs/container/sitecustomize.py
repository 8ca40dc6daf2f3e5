"""What names and addresses mean in a container: on a network of its own, the machine is C{host.docker.internal}."""

import os
import socket

_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host, *args, **options):
    if os.environ["CONTAINER_NETWORK"] == "host":
        return _getaddrinfo(host, *args, **options)
    if host != "host.docker.internal":
        raise OSError(f"nothing listens in this container at {host}")
    return _getaddrinfo("127.0.0.1", *args, **options)


socket.getaddrinfo = getaddrinfo
