"""Requests that are passed on to other servers, and their answers on the way back."""
