"""An application that signs a user in through the official Python SDK."""

import os
import re
import sys
from urllib.parse import parse_qs, urlsplit

import foundry_sdk
import httpx
from foundry_sdk import ConfidentialClientAuth, FoundryClient, PublicClientAuth

url, trusted = os.environ["URL"], os.environ["CA"]
config = foundry_sdk.Config(verify=trusted)
redirect = "http://localhost:8080/auth/callback"


def click(page_url: str, username: str) -> "dict[str, str]":
    """Do what a browser does when a user is clicked on; return what the application is told."""
    with httpx.Client(verify=trusted) as browser:
        page = browser.get(page_url)
        assert page.status_code == 200, page.text
        request = re.search(r'name="request" value="([^"]*)"', page.text)
        user = re.search(rf'name="user" value="([^"]*)"><bdi>[^<]*</bdi><small><bdi>{username}<', page.text)
        form = {"request": request[1], "user": user[1]}
        redirected = browser.post(page_url.partition("?")[0], data=form, headers={"Origin": url})
    location = redirected.headers["Location"]
    assert location.startswith(redirect + "?")
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


def show(user: "foundry_sdk.v2.admin.models.User") -> None:
    print(user.username, user.given_name, user.family_name, user.email, user.status)


auth = PublicClientAuth("page", redirect, hostname=url, scopes=["api:admin-read"], config=config)
told = click(auth.sign_in(), "jane")
auth.set_token(told["code"], told["state"])
client = FoundryClient(auth=auth, hostname=url, config=config)
show(client.admin.User.get_current())
first = auth.get_token()
assert auth._try_refresh_token()
assert auth.get_token().access_token != first.access_token
show(client.admin.User.get_current())

try:
    auth.set_token(told["code"], told["state"])
except httpx.HTTPStatusError as error:
    print(error.response.status_code, error.response.json()["error"])

# The second use of the code has ended everything, so the client cannot refresh either.
try:
    client.admin.User.get_current()
except Exception as error:
    print(type(error).__name__)

auth = PublicClientAuth("page", redirect, hostname=url, should_refresh=False, config=config)
told = click(auth.sign_in(), "jim")
auth.set_token(told["code"], told["state"])
show(FoundryClient(auth=auth, hostname=url, config=config).admin.User.get_current())
last = auth.get_token()
print(last.refresh_token)
auth.sign_out()
bearer = {"Authorization": f"Bearer {last.access_token}"}
print(httpx.get(f"{url}/api/v2/admin/users/getCurrent", headers=bearer, verify=trusted).status_code)

machine = ConfidentialClientAuth("app", "secret", hostname=url, scopes=["api:admin-read"], config=config)
show(FoundryClient(auth=machine, hostname=url, config=config).admin.User.get_current())
sys.stdout.flush()
# The SDK refreshes in threads that are not stopped when an application signs in again.
os._exit(0)
