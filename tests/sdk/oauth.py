"""An application that gets its token through the official Python SDK."""

import json
import os
import ssl
import urllib.request
from typing import Any
from urllib.error import HTTPError

import foundry_sdk
from foundry_sdk import ConfidentialClientAuth

url = os.environ["URL"]
trust = ssl.create_default_context(cafile=os.environ["CA"])


def me(token: str) -> Any:
    request = urllib.request.Request(f"{url}/multipass/api/me", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=trust) as answer:
        return json.load(answer)


auth = ConfidentialClientAuth(
    "app",
    os.environ["CLIENT_SECRET"],
    hostname=url,
    scopes=["api:read-data"],
    config=foundry_sdk.Config(verify=os.environ["CA"]),
)
token = auth.get_token()
assert me(token.access_token)["username"] == "app"
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
