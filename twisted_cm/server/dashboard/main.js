/** @file The dashboard: signs in, follows the emulator's events, and updates the parts of the page. */

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

/** The least time between two requests for runtimes and faults, in milliseconds. */
const BREATH = 1000;

/** The most jobs that the charts load after a connection. */
const MOST_RECALLED = 1000;

/**
 * Whether the user entered a token, or a token was valid before. If it is refused, the page says so. The development
 * token that the page tries by itself is not the user's, so its refusal is no error.
 */
let chosen = false;

const api = new Api((error) => signIn(chosen ? error.message : ""));
const story = new Story(api);
const charts = new Charts(byId("charts"), () => api.now());
const jobs = new JobList(api, (job) => story.open(job));
const faults = new Faults(api, () => runtimes.ids());
const submit = new SubmitDialog(api, (job) => story.open(job));
const runtimes = new Runtimes(api, (...job) => submit.open(...job), (job) => story.open(job));
// A replica becomes silent without an event, so the page looks after each silence, too.
const stream = new EventStream(api, { connected, event, silence: look, waiting });

// Changes, drawn once for each frame

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

// Runtimes and faults, loaded after an event

let asked = -BREATH;
let asking = 0;

function look() {
  asking ||= setTimeout(async () => {
    asking = 0;
    if (byId("board").hidden) {
      return;
    }
    asked = performance.now();
    // A fault has no event when it is applied. The job or the poll that it hit has one.
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

/** Load the jobs that ended before the page was connected. */
async function recall() {
  const recent = await api.jobs({}, null, MOST_RECALLED).catch(() => ({ jobs: [] }));
  recent.jobs.forEach((job) => charts.add(job));
  charts.draw();
}

/** Follow the events while the page is visible: a browser opens few connections to one server, and each tab needs one. */
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
  chosen = true;
  sessionStorage.setItem(STORED, token);
  show(true);
  follow();
}

byId("sign-in").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  chosen = true;
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
const stored = sessionStorage.getItem(STORED);
const token = stored ?? (loopback ? DEVELOPMENT_TOKEN : null);
chosen = stored !== null;
fetch(new URL("info", document.baseURI)).then((answer) => answer.json()).then(
  (info) => setText(byId("version"), info.version), () => {},
);
if (token === null) {
  signIn("");
} else {
  // After a 401 the form is already shown.
  enter(token).catch((error) => error.status === 401 || signIn(error.message));
}
