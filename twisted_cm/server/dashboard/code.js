/** @file The part of a dialog that shows a job as code, ready to paste. */

import { copy, download, el, setText } from "./dom.js";
import { curl, hasParameters, python, typescript } from "./snippets.js";

const LANGUAGES = { curl: "curl", python: "Python", typescript: "TypeScript" };

export class CodeView {
  /**
   * @param api Tells the emulator's HTTPS address.
   * @param job Returns the job, without the deployed app, as the functions of snippets.js take it; throws an error that
   * says what is wrong.
   * @param bindings The deployed apps of the runtime.
   */
  constructor(api, job, bindings) {
    this.api = api;
    this.job = job;
    this.bindings = bindings.filter((binding) => binding.active);
    this.info = null;
    this.language = "curl";
    this.tabs = Object.entries(LANGUAGES).map(([language, name]) => el("button", {
      type: "button", role: "tab", id: `code-${language}`, "aria-controls": "code-panel",
      click: () => this.#select(language), keydown: (event) => this.#move(event),
    }, name));
    this.apps = el("select", { id: "code-app", change: () => this.update() },
      ...this.bindings.map((each, index) => el("option", { value: index }, `${each.deployed_app_rid} on ${each.branch}`)));
    this.app = el("div", { class: "field" }, el("label", { for: "code-app" }, "Deployed app"), this.apps);
    this.note = el("p", { class: "quiet" });
    this.code = el("pre", { id: "code-text", tabindex: "0", "aria-label": "Code" });
    this.copy = el("button", { type: "button", click: () => this.#copy() }, "Copy");
    this.copied = el("span", { role: "status" });
    this.save = el("button", { type: "button", click: () => download(this.info.caCertificate, "ca.pem") }, "Save ca.pem");
    this.panel = el("div", { id: "code-panel", role: "tabpanel" },
      this.app, this.note, this.code, el("p", { class: "buttons" }, this.copy, this.save, this.copied));
    this.element = el("div", { id: "code" },
      el("div", { class: "buttons", role: "tablist", "aria-label": "Language" }, ...this.tabs), this.panel);
    this.element.hidden = true;
    this.toggle = el("button", {
      type: "button", "aria-expanded": "false", "aria-controls": "code", click: () => this.#toggle(),
    }, "Show as code");
  }

  async #toggle() {
    this.element.hidden = !this.element.hidden;
    this.toggle.setAttribute("aria-expanded", String(!this.element.hidden));
    setText(this.toggle, this.element.hidden ? "Show as code" : "Hide the code");
    this.#select(this.language);
    // The addresses change when the emulator is restarted.
    this.info = await this.api.get("info").catch(() => this.info);
    this.update();
  }

  #select(language) {
    this.language = language;
    for (const tab of this.tabs) {
      const selected = tab.id === `code-${language}`;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", `code-${language}`);
    this.update();
  }

  /** Go from tab to tab with the keys of ARIA's pattern for tabs. */
  #move(event) {
    const at = this.tabs.indexOf(event.target);
    const last = this.tabs.length - 1;
    const to = {
      ArrowLeft: at === 0 ? last : at - 1, ArrowRight: at === last ? 0 : at + 1, Home: 0, End: last,
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.tabs[to].focus();
      this.#select(Object.keys(LANGUAGES)[to]);
    }
  }

  /** Show the code of the job that is in the dialog now. */
  update() {
    if (this.element.hidden) {
      return;
    }
    const [code, note] = this.#make();
    setText(this.code, code);
    setText(this.note, note);
    setText(this.copied, "");
    this.note.hidden = note === "";
    this.code.hidden = this.copy.hidden = code === "";
    this.app.hidden = this.language !== "curl" || this.bindings.length < 2;
    this.save.hidden = !this.info?.caCertificate || !code.includes("ca.pem");
  }

  /** Return the code, and a note; one of them is empty. */
  #make() {
    let job;
    try {
      job = this.job();
    } catch (error) {
      return ["", error.message];
    }
    if (this.language === "curl") {
      return [curl({ ...job, binding: this.bindings[this.apps.value] ?? null }, document.baseURI), ""];
    }
    if (!hasParameters(job.query)) {
      return ["", "This query is not a JSON object. The functions API takes parameters by name, so curl alone can send it."];
    }
    const url = this.info?.https ?? location.origin;
    return [(this.language === "python" ? python : typescript)(job, url), ""];
  }

  async #copy() {
    setText(this.copied, await copy(this.code) ? "Copied" : "The code is selected. Copy it with the keyboard.");
  }
}
