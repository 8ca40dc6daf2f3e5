#!/usr/bin/env bash
# routes.sh BASE_URL CA: a client with nothing but curl, as runtime and as application.
set -euo pipefail
base=$1
runtimes=$base/_emulate/foundry/compute-modules/runtimes
contour=$base/contour-backend-multiplexer/api/module-group-multiplexer
curl=(curl -sS --cacert "$2")
app=("${curl[@]}" -H 'Authorization: Bearer app-token')

# field NAME: one text field of the JSON on standard input.
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }
# expect WANTED GOT: the same, or the end.
expect() { [ "$1" = "$2" ] || { echo "expected $1, got $2" >&2; exit 1; }; }

session=$("${curl[@]}" -d '{"runtimeId": "curl", "deployedAppRid": "ri.curl", "branch": "dev"}' "$runtimes")
token=$(field moduleAuthToken <<<"$session")
job_uri=$(field getJobUri <<<"$session")
result_uri=$(field postResultUri <<<"$session")
module=("${curl[@]}" -H "Module-Auth-Token: $token")
status=(-o /dev/null -w '%{http_code}')

expect 204 "$("${module[@]}" "${status[@]}" -H 'Prefer: wait=0' "$job_uri")"
expect '{}' "$("${module[@]}" -d '[{"functionName": "f", "type": "object"}]' "$(field postSchemaUri <<<"$session")")"
expect '[]' "$("${module[@]}" -X POST "$(field restartNotificationUri <<<"$session")")"

submit='{"deployedAppRid": "ri.curl", "deployedAppBranch": "dev", "queryType": "f", "query": 1}'
id=$("${app[@]}" -d "$submit" "$contour/deployed-apps/jobs" | field id)
expect "$id" "$("${module[@]}" "$job_uri" | field jobId)"
"${app[@]}" "$contour/jobs/$id/status" | grep -q '"type": *"running"'
expect 204 "$("${module[@]}" "${status[@]}" -d 'the result' "$result_uri/$id")"
expect 'the result' "$("${app[@]}" -X PUT -d "{\"id\": \"$id\"}" "$contour/jobs/result/v2")"

"${app[@]}" -d "$submit" "$contour/compute-modules/jobs/execute" > "${TMPDIR:-/tmp}/routes.$$" &
id=$("${module[@]}" "$job_uri" | field jobId)
expect 204 "$("${module[@]}" "${status[@]}" -H 'Transfer-Encoding: chunked' -d 'streamed' "$result_uri/$id")"
wait
expect 'streamed' "$(cat "${TMPDIR:-/tmp}/routes.$$")"
rm "${TMPDIR:-/tmp}/routes.$$"

direct=$("${module[@]}" -d '{"queryType": "f"}' "$runtimes/curl/jobs" | field job_id)
"${curl[@]}" "$runtimes/curl/jobs/$direct" | grep -q '"status": *"queued"'
"${app[@]}" "$runtimes" | grep -q '"runtime_id": *"curl"'
"${app[@]}" "$runtimes/curl" | grep -q '"queued_jobs": *1'
expect 204 "$("${app[@]}" "${status[@]}" -X DELETE "$runtimes/curl")"
expect 404 "$("${app[@]}" "${status[@]}" "$runtimes/curl")"
"${curl[@]}" "$base/_emulate/foundry/compute-modules/info" | grep -q 'BEGIN CERTIFICATE'
