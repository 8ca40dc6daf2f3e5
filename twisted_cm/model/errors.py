"""The values of the field ``error`` in error answers (contract section 4)."""

from __future__ import annotations

INVALID_REQUEST = "invalid_request"
INVALID_TOKEN = "invalid_token"
INVALID_MODULE_AUTH_TOKEN = "invalid_module_auth_token"
FORBIDDEN = "forbidden"
NOT_FOUND = "not_found"
METHOD_NOT_ALLOWED = "method_not_allowed"
PAYLOAD_TOO_LARGE = "payload_too_large"
QUEUE_FULL = "queue_full"
JOB_NOT_READY = "job_not_ready"
JOB_ALREADY_COMPLETED = "job_already_completed"
IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
JOB_FAILED = "job_failed"
UNAVAILABLE = "unavailable"
JOB_TIMEOUT = "job_timeout"
