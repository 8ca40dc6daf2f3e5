// An application that gets its token from the official OAuth client; run by the tests.
import { createConfidentialOauthClient } from "@osdk/oauth";

const { URL: url, CLIENT_SECRET: secret } = process.env;
const scopes = ["api:read-data", "api:write-data"];

async function me(token) {
  return fetch(`${url}/multipass/api/me`, { headers: { Authorization: `Bearer ${token}` } });
}

const auth = createConfidentialOauthClient("app", secret, url, scopes);
const token = await auth();
const owner = await (await me(token)).json();
console.log(owner.username);
console.log(owner.scopes.join(","));

try {
  await createConfidentialOauthClient("app", "wrong", url, scopes)();
} catch (error) {
  console.log(error.message.split(": ")[1]);
}

await auth.signOut();
console.log((await me(token)).status);
