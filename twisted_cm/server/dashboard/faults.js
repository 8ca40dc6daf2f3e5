/** @file The faults: a list of them, a dialog that adds one, and buttons that clear them. */

import { announce, arrange, byId, count, el, setText } from "./dom.js";
import { makeForm } from "./forms.js";

const SECONDS = {
  title: "Seconds", type: "number", minimum: 0.001, maximum: 86400, default: 1,
  description: "How long the delay is",
};

const FUNCTION = { title: "Function", type: "string", description: "Any function, if empty" };

/** Each kind of fault: what goes wrong, and the fields that only this kind has. */
const KINDS = {
  delay_dispatch: ["A job reaches its runtime late", { seconds: SECONDS }],
  delay_result: ["A result is accepted late", { seconds: SECONDS }],
  fail_job: ["A job fails before a runtime gets it", { message: { title: "Message", type: "string" } }],
  drop_job: ["A job is accepted but never dispatched", {}],
  poll_error: ["A poll is answered with an error", { status: { title: "Status", enum: [500, 401] } }],
  cut_result: ["The caller's connection is cut in the middle of a result", {}],
  duplicate_delivery: ["A job is delivered to two polls", {}],
  expire_token: ["The module auth token is refused", {}],
};

/** Kinds that apply before the function is known. */
const WITHOUT_FUNCTION = new Set(["poll_error", "expire_token"]);

export class Faults {
  /** @param {function(): string[]} runtimes Returns the ids of the runtimes. */
  constructor(api, runtimes) {
    this.api = api;
    this.runtimes = runtimes;
    this.items = new Map();
    this.refusedTo = null;
    this.dialog = byId("fault");
    byId("add-fault").addEventListener("click", () => this.#open());
    byId("clear-faults").addEventListener("click", () => this.#clear("faults", "All faults are cleared"));
  }

  async load() {
    const token = this.api.token;
    if (token === this.refusedTo) {
      return;
    }
    let faults;
    try {
      faults = await this.api.get("faults");
    } catch (error) {
      this.refusedTo = error.status === 403 ? token : null;
      byId("faults").replaceChildren();
      this.items.clear();
      setText(byId("faults-note"), error.message);
      return;
    }
    const byFault = new Map(faults.map((fault) => [fault.fault_id, fault]));
    arrange(byId("faults"), [...byFault.keys()], this.items, (id) => this.#make(byFault.get(id)));
    for (const [id, { struck }] of this.items) {
      const fault = byFault.get(id);
      const limit = fault.count === undefined ? "" : ` (limit: ${fault.count})`;
      setText(struck, `Applied ${count(fault.struck, "time")}${limit}${fault.spent ? ", used up" : ""}`);
    }
    setText(byId("faults-note"), faults.length === 0 ? "No faults are active." : "");
    byId("clear-faults").disabled = faults.length === 0;
  }

  #make(fault) {
    const where = [
      fault.runtime_id === undefined ? "any runtime" : `runtime ${fault.runtime_id}`,
      fault.function === undefined ? null : `function ${fault.function}`,
      fault.seconds === undefined ? null : `${fault.seconds} s`,
      fault.status === undefined ? null : `status ${fault.status}`,
      fault.message === undefined ? null : `“${fault.message}”`,
      fault.probability === 1 ? null : `with probability ${fault.probability}`,
    ].filter((each) => each !== null);
    const struck = el("p", { class: "quiet" });
    const node = el("li", {},
      el("h3", {}, KINDS[fault.kind]?.[0] ?? fault.kind),
      el("p", {}, where.join(", ")),
      struck,
      el("button", {
        type: "button",
        "aria-label": `Clear ${fault.kind}`,
        click: () => this.#clear(`faults/${encodeURIComponent(fault.fault_id)}`, "The fault is cleared"),
      }, "Clear"),
    );
    return { node, struck };
  }

  async #clear(path, done) {
    let refused = null;
    try {
      await this.api.request("DELETE", path);
      announce(done);
    } catch (error) {
      refused = error;
    }
    await this.load();
    if (refused) {
      setText(byId("faults-note"), refused.message);
    }
    if (document.activeElement === document.body) {
      byId("add-fault").focus();
    }
  }

  #open() {
    const kind = el("select", { id: "fault-kind", change: () => show() },
      ...Object.entries(KINDS).map(([value, [text]]) => el("option", { value }, text)));
    const fields = el("div", {});
    const error = el("p", { class: "alert", role: "alert" });
    let form;
    const show = () => {
      form = makeForm(this.#schema(kind.value));
      fields.replaceChildren(...form.element.querySelectorAll(":scope > div > .field"));
    };
    show();
    this.dialog.replaceChildren(el("form", { submit: async (event) => {
      event.preventDefault();
      try {
        await this.api.request("POST", "faults", JSON.stringify({ kind: kind.value, ...form.read() }));
        this.dialog.close();
        announce("The fault is added");
        await this.load();
      } catch (refused) {
        setText(error, refused.message);
      }
    } },
      el("h2", { id: "fault-title" }, "Add a fault"),
      el("div", { class: "field" }, el("label", { for: kind.id }, "What goes wrong"), kind),
      fields,
      error,
      el("p", { class: "buttons" },
        el("button", { type: "submit", class: "main" }, "Add"),
        el("button", { type: "button", click: () => this.dialog.close() }, "Close"),
      ),
    ));
    this.dialog.showModal();
  }

  #schema(kind) {
    const own = KINDS[kind][1];
    return {
      type: "object",
      properties: {
        ...own,
        runtime_id: { title: "Runtime", enum: this.runtimes(), description: "Any runtime, if not set" },
        ...(WITHOUT_FUNCTION.has(kind) ? {} : { function: FUNCTION }),
        count: { title: "Times", type: "integer", minimum: 1, description: "Without a limit, if empty" },
        probability: { title: "Probability", type: "number", minimum: 0.0001, maximum: 1 },
        random_seed: { title: "Random seed", type: "integer", description: "Draws the same random numbers in each run" },
      },
      required: "seconds" in own ? ["seconds"] : [],
    };
  }
}
