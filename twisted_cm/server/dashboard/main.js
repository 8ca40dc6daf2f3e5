// The dashboard: signs in, follows the emulator's events, and tells the parts of the page what has changed.

import { Api, EventStream } from "./api.js";
import { Charts } from "./charts.js";
import { announce, byId, setText } from "./dom.js";
import { Faults } from "./faults.js";
import { JobList } from "./jobs.js";
import { Runtimes } from "./runtimes.js";
import { Story } from "./story.js";
import { SubmitDialog } from "./submit.js";

const STORED = "twisted-cm token";
const DEVELOPMENT_TOKEN = "test_token_admin";

// Milliseconds between two questions about runtimes and faults, however much happens.
const BREATH = 1000;

// The most jobs that the charts look back at.
const MOST_RECALLED = 1000;

const api = new Api((error) => signIn(error.message));
const story = new Story(api);
const charts = new Charts(byId("charts"), () => api.now());
const jobs = new JobList(api, (job) => story.open(job));
const faults = new Faults(api, () => runtimes.ids());
const submit = new SubmitDialog(api, (job) => story.open(job));
const runtimes = new Runtimes(api, (runtimeId, schema) => submit.open(runtimeId, schema));
const stream = new EventStream(api, { connected, event, waiting });

// What has happened, drawn once for each frame

const pending = new Map();
let reload = false;
let frame = 0;

function event(kind, data) {
  if (kind === "job") {
    charts.add(data);
    pending.set(data.job_id, data);
  } else if (kind === "reload") {
    reload = true;
  }
  look();
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  const changed = [...pending.values()];
  pending.clear();
  if (reload) {
    reload = false;
    jobs.load();
    story.load();
  } else {
    jobs.changed(changed);
    story.changed(changed);
  }
}

// Runtimes and faults, asked about when there is reason to

let asked = -BREATH;
let asking = 0;

function look() {
  asking ||= setTimeout(async () => {
    asking = 0;
    if (byId("board").hidden) {
      return;
    }
    asked = performance.now();
    // Faults that strike say so in no event of their own; a job or a poll was struck.
    await Promise.all([runtimes.load(), faults.load()]).catch(() => {});
    jobs.setRuntimes(runtimes.ids());
  }, Math.max(0, asked + BREATH - performance.now()));
}

// The connection

function connected() {
  setConnection("live", "Live");
  jobs.load();
  story.load();
  look();
  recall();
}

// What the charts have missed.
async function recall() {
  const recent = await api.jobs({}, null, MOST_RECALLED).catch(() => ({ jobs: [] }));
  recent.jobs.forEach((job) => charts.add(job));
  charts.draw();
}

// A browser lets few connections be open to one server, so only a page that somebody sees holds one.
function follow() {
  if (byId("board").hidden) {
    return;
  }
  if (document.hidden) {
    stream.stop();
    setConnection("quiet", "Paused");
  } else {
    stream.start();
  }
}

document.addEventListener("visibilitychange", follow);

function waiting(milliseconds) {
  setConnection("broken", `Not connected; trying again in ${Math.ceil(milliseconds / 1000)} s`);
}

function setConnection(kind, text) {
  byId("connection").className = kind;
  setText(byId("connection"), text);
}

// Signing in

function show(signedIn) {
  byId("sign-in").hidden = signedIn;
  byId("board").hidden = !signedIn;
  byId("sign-out").hidden = !signedIn;
}

function signIn(reason) {
  stream.stop();
  sessionStorage.removeItem(STORED);
  for (const dialog of document.querySelectorAll("dialog[open]")) {
    dialog.close();
  }
  setConnection("quiet", "Signed out");
  setText(document.querySelector("#sign-in [role=alert]"), reason);
  show(false);
  byId("token").focus();
}

async function enter(token) {
  api.token = token;
  await runtimes.load();
  sessionStorage.setItem(STORED, token);
  show(true);
  follow();
}

byId("sign-in").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  try {
    await enter(byId("token").value.trim());
    byId("token").value = "";
    byId("jobs").focus();
    announce("Signed in");
  } catch (error) {
    setText(document.querySelector("#sign-in [role=alert]"), error.message);
  }
});
byId("sign-out").addEventListener("click", () => signIn(""));

setInterval(() => {
  charts.draw();
  runtimes.tick();
}, 1000);

const loopback = /^(localhost|127(\.\d+){3}|\[::1\]|.+\.localhost)$/.test(location.hostname);
const token = sessionStorage.getItem(STORED) ?? (loopback ? DEVELOPMENT_TOKEN : null);
fetch(new URL("info", document.baseURI)).then((answer) => answer.json()).then(
  (info) => setText(byId("version"), info.version), () => {},
);
if (token === null) {
  signIn("");
} else {
  // A 401 has shown the form already.
  enter(token).catch((error) => error.status === 401 || signIn(error.message));
}
