/** @file The runtimes: whether they are connected, their replicas, their deployed apps and their functions. */

import { arrange, byId, el, formatAge, setText } from "./dom.js";
import { Replicas } from "./replicas.js";
import { signature } from "./schemas.js";
import { pretty } from "./exact.js";

/** The most runtimes that are shown. */
const MOST_SHOWN = 100;

export class Runtimes {
  /**
   * @param submit Called with a runtime's id, a function schema or null, and the runtime's deployed apps, when the user
   * wants to submit a job.
   * @param open Called with the ids of a job and of its runtime when the user opens the job.
   */
  constructor(api, submit, open) {
    this.api = api;
    this.submit = submit;
    this.open = open;
    this.runtimes = [];
    this.cards = new Map();
  }

  ids() {
    return this.runtimes.map((runtime) => runtime.runtime_id);
  }

  async load() {
    this.runtimes = await this.api.get("runtimes");
    const shown = new Map(this.runtimes.slice(0, MOST_SHOWN).map((runtime) => [runtime.runtime_id, runtime]));
    arrange(byId("runtimes"), [...shown.keys()], this.cards, (id) => new Card(this.api, id, this.submit, this.open));
    for (const [runtimeId, card] of this.cards) {
      card.update(shown.get(runtimeId));
    }
    const more = this.runtimes.length - shown.size;
    setText(byId("runtimes-note"), this.runtimes.length === 0
      ? "No runtimes yet. Start a module with: twisted-cm exec --runtime ID -- COMMAND"
      : more > 0 ? `and ${more} more` : "");
    this.tick();
  }

  /** Update what depends on the time. */
  tick() {
    const now = this.api.now();
    for (const card of this.cards.values()) {
      card.tick(now);
    }
  }
}

class Card {
  constructor(api, runtimeId, submit, open) {
    this.api = api;
    this.runtimeId = runtimeId;
    this.submit = submit;
    this.runtime = null;
    this.shownSchemas = undefined;
    this.state = el("span", { class: "badge" });
    this.polled = el("span", {});
    this.counts = el("span", {});
    this.module = el("p", {});
    this.replicas = new Replicas(runtimeId, open);
    this.bindings = el("ul", { class: "bindings" });
    this.functions = el("ul", { class: "functions" });
    this.details = el("details", { toggle: () => this.#loadSchemas() }, el("summary", {}, "Functions"), this.functions);
    this.node = el("li", {},
      el("h3", {}, el("span", { class: "name" }, runtimeId), this.state),
      el("p", { class: "quiet" }, this.polled, " · ", this.counts),
      this.module,
      this.replicas.node,
      this.bindings,
      this.details,
      el("button", { type: "button", click: () => this.#submit(null) }, "Submit a job…"),
    );
  }

  update(runtime) {
    const former = this.runtime;
    this.runtime = runtime;
    const state = runtime.connected ? "connected" : "not connected";
    setText(this.state, state);
    this.state.className = `badge ${runtime.connected ? "connected" : "absent"}`;
    setText(this.counts, `${runtime.queued_jobs} queued, ${runtime.running_jobs} running`);
    setText(this.module, describeModule(runtime.module));
    this.module.className = runtime.module?.error ? "alert" : "quiet";
    this.replicas.update(runtime.replicas);
    if (JSON.stringify(former?.bindings) !== JSON.stringify(runtime.bindings)) {
      this.bindings.replaceChildren(...runtime.bindings.map(describeBinding));
    }
    if (this.details.open) {
      this.#loadSchemas();
    }
  }

  tick(now) {
    const polled = this.runtime?.last_poll_at ?? null;
    setText(this.polled, polled === null ? "never polled" : `polled ${formatAge(now - polled)} ago`);
    this.replicas.tick(now);
  }

  #submit(schema) {
    this.submit(this.runtimeId, schema, this.runtime.bindings);
  }

  async #loadSchemas() {
    const posted = this.runtime.last_schema_post_at;
    if (!this.details.open || this.shownSchemas === posted) {
      return;
    }
    this.shownSchemas = posted;
    try {
      const { schemas } = await this.api.runtime(this.runtimeId);
      this.functions.replaceChildren(...schemas.map((schema) => this.#describe(schema)));
      if (schemas.length === 0) {
        this.functions.append(el("li", { class: "quiet" }, "This runtime has posted no functions."));
      }
    } catch (error) {
      this.shownSchemas = undefined;
      this.functions.replaceChildren(el("li", { class: "alert" }, error.message));
    }
  }

  #describe(schema) {
    const description = schema.schema_payload.description;
    return el("li", {},
      el("code", {}, signature(schema.function_name, schema.schema_payload)),
      typeof description === "string" && description ? el("p", { class: "quiet" }, description) : null,
      el("button", {
        type: "button",
        "aria-label": `Run ${schema.function_name}`,
        click: () => this.#submit(schema),
      }, "Run…"),
      el("details", {}, el("summary", {}, "Schema"), el("pre", { tabindex: "0" }, pretty(schema.schema_payload))),
    );
  }
}

/** Return how the processes are that the emulator starts for a runtime; nothing if it starts none. */
function describeModule(module) {
  if (module === null) {
    return "";
  }
  const cold = module.cold_start_ms === null ? null : `last cold start ${(module.cold_start_ms / 1000).toFixed(2)} s`;
  const parts = [`module ${module.state}`, `started ${module.starts} times`, cold, module.error];
  return parts.filter((each) => each !== null).join(" · ");
}

function describeBinding(binding) {
  const name = binding.display_name ? el("strong", {}, binding.display_name) : null;
  return el("li", {}, name, name && el("br"), `${binding.deployed_app_rid} on ${binding.branch}`,
    binding.active ? null : " (not active)");
}
