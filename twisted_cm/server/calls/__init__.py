"""Calls of functions, from the request of an application to its answer."""
