"""The connection, request and body under the routes."""
