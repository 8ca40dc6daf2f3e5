/** @file The replicas of one runtime: their states, what they run, and why those that are gone ended. */

import { arrange, badge, count, el, formatAge, formatTime, setText } from "./dom.js";

/** The most jobs that are shown for one replica. */
const MOST_JOBS = 10;

export class Replicas {
  /** @param {function(Object)} open Called with the ids of a job and of its runtime when the user opens the job. */
  constructor(runtimeId, open) {
    this.make = (id) => new Replica(id, (job_id) => open({ job_id, runtime_id: runtimeId }));
    this.present = new Map();
    this.gone = new Map();
    this.summary = el("summary", {});
    this.list = el("ul", { class: "replicas", "aria-label": `Replicas of ${runtimeId}` });
    this.goneList = el("ul", { class: "replicas" });
    this.goneDetails = el("details", {}, this.summary, this.goneList);
    this.node = el("div", { class: "card-replicas" }, this.list);
  }

  /** Show the replicas as they are in the description of the runtime. */
  update(replicas) {
    const byId = new Map(replicas.map((replica) => [replica.replica_id, replica]));
    const isGone = (id) => byId.get(id).state === "gone";
    const ids = [...byId.keys()];
    const gone = ids.filter(isGone).sort((one, other) => byId.get(other).ended_at - byId.get(one).ended_at);
    arrange(this.list, ids.filter((id) => !isGone(id)), this.present, this.make);
    arrange(this.goneList, gone, this.gone, this.make);
    if (gone.length === 0) {
      this.goneDetails.remove();
    } else if (!this.goneDetails.isConnected) {
      this.node.append(this.goneDetails);
    }
    setText(this.summary, `${count(gone.length, "replica")} gone`);
    for (const [id, replica] of [...this.present, ...this.gone]) {
      replica.update(byId.get(id));
    }
  }

  /** Update what depends on the time. */
  tick(now) {
    for (const replica of this.present.values()) {
      replica.tick(now);
    }
  }
}

class Replica {
  constructor(replicaId, open) {
    this.open = open;
    this.replica = null;
    this.rows = new Map();
    this.state = el("span", {});
    this.facts = el("span", {});
    this.polled = el("span", {});
    this.jobs = el("ul", { class: "running", "aria-label": `Jobs of ${replicaId}` });
    this.more = el("p", { class: "quiet" });
    this.node = el("li", {},
      el("p", {}, el("span", { class: "name" }, replicaId), " ", this.state),
      el("p", { class: "quiet" }, this.facts, this.polled),
      this.jobs,
      this.more,
    );
  }

  update(replica) {
    this.replica = replica;
    if (this.state.textContent !== replica.state) {
      this.state.replaceChildren(badge(replica.state));
    }
    setText(this.facts, describe(replica));
    const shown = replica.running_jobs.slice(0, MOST_JOBS);
    arrange(this.jobs, shown, this.rows, (jobId) => ({
      node: el("li", {}, el("button", { type: "button", class: "link", click: () => this.open(jobId) }, jobId)),
    }));
    this.jobs.hidden = shown.length === 0;
    const more = replica.running_jobs.length - shown.length;
    setText(this.more, more > 0 ? `and ${more} more` : "");
    this.more.hidden = more <= 0;
  }

  tick(now) {
    const { last_poll_at: polled } = this.replica;
    setText(this.polled, polled === null ? " · never polled" : ` · polled ${formatAge(now - polled)} ago`);
  }
}

function describe(replica) {
  if (replica.state === "gone") {
    return `ended ${formatTime(replica.ended_at)}: ${replica.ended_why.split("\n", 1)[0]}`;
  }
  const limit = replica.max_concurrent_tasks;
  const jobs = replica.running_jobs.length;
  const running = limit === null ? `${jobs} running, no limit` : `${jobs} of ${limit} running`;
  return `${running} · since ${formatTime(replica.opened_at)}`;
}
