// An application in a browser that signs users in with the official OAuth client; the tests click on it.
import { createPlatformClient } from "@osdk/client";
import { createPublicOauthClient } from "@osdk/oauth";
import { foundryPlatformFetch } from "@osdk/shared.net.platformapi";

const { url, clientId } = await (await fetch("/config.json")).json();
const callback = "/auth/callback";
const auth = createPublicOauthClient(clientId, url, window.location.origin + callback, {
  scopes: ["api:admin-read"],
  postLoginPage: window.location.origin + "/",
});
const client = createPlatformClient(url, auth);

function show(value) {
  document.querySelector("#shown").textContent = JSON.stringify(value);
}

// What the package @osdk/foundry.admin does for Users.getCurrent.
async function current() {
  return foundryPlatformFetch(client, [0, "/v2/admin/users/getCurrent"]);
}

async function asked(token) {
  const headers = { Authorization: `Bearer ${token}` };
  return (await fetch(`${url}/multipass/api/me`, { headers })).status;
}

function does(id, action) {
  document.querySelector(id).addEventListener("click", async () => {
    try {
      show(await action());
    } catch (error) {
      show({ error: String(error) });
    }
  });
}

does("#sign-in", () => auth.signIn());
does("#refresh", async () => {
  const before = await auth();
  const { access_token: after } = await auth.refresh();
  return { user: await current(), refreshed: before !== after };
});
does("#sign-out", async () => {
  const token = await auth();
  await auth.signOut();
  return { signedOut: await asked(token), left: Object.values({ ...localStorage }) };
});

const isSignedIn = Object.values({ ...localStorage }).some((each) => each.includes("refresh_token"));
if (window.location.pathname === callback || isSignedIn) {
  try {
    await auth.signIn();
    show({ user: await current(), query: window.location.search });
  } catch (error) {
    show({ error: String(error), why: new URLSearchParams(window.location.search).get("error") });
  }
} else {
  show("nobody");
}
