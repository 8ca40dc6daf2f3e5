/** @file The dialog that submits a job, with a form made from the function's schema or with JSON. */

import { CodeView } from "./code.js";
import { announce, byId, el, setText } from "./dom.js";
import { parseExact, pretty } from "./exact.js";
import { makeForm } from "./forms.js";
import { querySchema, signature } from "./schemas.js";

export class SubmitDialog {
  /** @param {function(Object)} submitted Called with the new job. */
  constructor(api, submitted) {
    this.api = api;
    this.submitted = submitted;
    this.dialog = byId("submit");
  }

  /**
   * Open the dialog.
   * @param runtimeId The runtime.
   * @param schema That of the function, or null if the user names the function.
   * @param bindings The deployed apps of the runtime.
   */
  open(runtimeId, schema, bindings) {
    this.runtimeId = runtimeId;
    this.code = new CodeView(this.api, () => this.#job(), bindings);
    this.schema = schema && querySchema(schema.schema_payload);
    this.form = null;
    this.name = el("input", { id: "submit-function", required: true, autocomplete: "off", spellcheck: "false" });
    this.name.value = schema?.function_name ?? "";
    this.name.readOnly = schema !== null;
    this.json = el("textarea", { id: "submit-json", rows: 10, spellcheck: "false" });
    this.fields = el("div", {});
    this.error = el("p", { class: "alert", role: "alert" });
    this.mode = el("button", { type: "button", click: () => this.#switch() });
    this.mode.hidden = this.schema === null;
    const title = el("h2", { id: "submit-title" }, "Submit a job to ", el("span", { class: "name" }, runtimeId));
    const update = ({ target }) => this.code.element.contains(target) || this.code.update();
    const events = { submit: (event) => this.#submit(event), input: update, change: update, click: update };
    this.dialog.replaceChildren(el("form", events,
      title,
      schema && el("p", {}, el("code", {}, signature(schema.function_name, schema.schema_payload))),
      el("div", { class: "field" }, el("label", { for: this.name.id }, "Function"), this.name),
      this.fields,
      this.error,
      el("p", { class: "buttons" },
        el("button", { type: "submit", class: "main" }, "Submit"),
        this.mode,
        this.code.toggle,
        el("button", { type: "button", click: () => this.dialog.close() }, "Close"),
      ),
      this.code.element,
    ));
    this.#show(undefined);
    this.dialog.showModal();
    (this.fields.querySelector("input, select, textarea") ?? this.name).focus();
    if (schema === null) {
      this.name.focus();
    }
  }

  /** Show the form with a value in it, or the JSON if there is no schema. */
  #show(value, asJSON = this.schema === null) {
    this.form = null;
    if (!asJSON) {
      this.form = makeForm(this.schema, value);
      this.fields.replaceChildren(this.form.element);
    } else {
      this.json.value = pretty(value ?? {});
      const label = el("label", { for: this.json.id }, "Query as JSON");
      this.fields.replaceChildren(el("div", { class: "field" }, label, this.json));
    }
    setText(this.mode, this.form ? "Edit as JSON" : "Edit as a form");
  }

  #switch() {
    this.#trying(() => (this.form ? this.#show(this.form.read(), true) : this.#show(parseExact(this.json.value))));
  }

  #trying(action) {
    setText(this.error, "");
    try {
      return action();
    } catch (error) {
      setText(this.error, `This is not JSON: ${error.message}`);
      return undefined;
    }
  }

  /** Return the query as JSON text; throw a SyntaxError if it is not JSON. */
  #query(indent) {
    if (this.form) {
      return JSON.stringify(this.form.read(), null, indent);
    }
    JSON.parse(this.json.value);
    // The text stays unchanged, because parsing would round long numbers.
    return this.json.value;
  }

  /** Return the job that is in the form, for its code. */
  #job() {
    let query;
    try {
      query = this.#query(2);
    } catch (error) {
      throw new Error(`The query is not JSON: ${error.message}`);
    }
    if (this.name.value.trim() === "") {
      throw new Error("Name the function.");
    }
    return { runtimeId: this.runtimeId, functionName: this.name.value, query };
  }

  async #submit(event) {
    event.preventDefault();
    const query = this.#trying(() => this.#query());
    if (query === undefined) {
      return;
    }
    try {
      const job = await this.api.submit(this.runtimeId, this.name.value, query);
      this.dialog.close();
      announce("The job is queued");
      this.submitted(job);
    } catch (error) {
      setText(this.error, error.message);
    }
  }
}
