"""Resolve names as in a container: without the host's network, the names in ``CONTAINER_HOSTS`` are this machine."""

import os
import socket

_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host, *args, **options):
    if os.environ["CONTAINER_NETWORK"] == "host":
        return _getaddrinfo(host, *args, **options)
    if host not in os.environ.get("CONTAINER_HOSTS", "host.docker.internal").split():
        raise OSError(f"no process in this container listens on {host}")
    return _getaddrinfo("127.0.0.1", *args, **options)


socket.getaddrinfo = getaddrinfo

if "CONTAINER_HOSTNAME" in os.environ:
    socket.gethostname = lambda: os.environ["CONTAINER_HOSTNAME"]
