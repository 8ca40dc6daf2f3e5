"""Ask for a job of the demo without an SDK: demo_call.py status|result CONTOUR_URL JOB_ID."""

import json
import sys
from urllib.request import Request, urlopen

what, contour, job_id = sys.argv[1:]
headers = {"Authorization": "Bearer test_token_admin", "Content-Type": "application/json"}
if what == "status":
    with urlopen(Request(f"{contour}/jobs/{job_id}/status", headers=headers)) as answer:
        sys.exit(json.load(answer)["type"] != "succeeded")
body = json.dumps({"id": job_id}).encode()
with urlopen(Request(f"{contour}/jobs/result/v2", body, headers, method="PUT")) as answer:
    print(answer.read().decode(), end="")
