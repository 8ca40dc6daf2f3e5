"""An application that gets its token from the official Python SDK; run by the tests."""

import os
import ssl
import urllib.request
from urllib.error import HTTPError

import foundry_sdk
from foundry_sdk import ConfidentialClientAuth

url = os.environ["URL"]
trust = ssl.create_default_context(cafile=os.environ["CA"])


def me(token: str) -> str:
    request = urllib.request.Request(f"{url}/multipass/api/me", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=trust) as answer:
        return answer.read().decode()


auth = ConfidentialClientAuth(
    "app",
    os.environ["CLIENT_SECRET"],
    hostname=url,
    scopes=["api:read-data"],
    config=foundry_sdk.Config(verify=os.environ["CA"]),
)
token = auth.get_token()
assert '"username": "app"' in me(token.access_token)
print("app", token.expires_in)
auth._try_refresh_token()
assert auth.get_token().access_token != token.access_token
print("refreshed")
last = auth.get_token().access_token
auth.sign_out()
try:
    me(last)
except HTTPError as error:
    print(error.code)
