/** @file A form made from a JSON Schema, and the value that the user fills in. */

import { el } from "./dom.js";
import { exactNumber, parseExact, pretty } from "./exact.js";

/** The value of a field that is not set. */
const ABSENT = Symbol("absent");

/** The deepest level with fields of its own; deeper values are edited as JSON. */
const DEEPEST = 8;

const ANNOTATIONS = ["title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"];

let made = 0;

/**
 * Make a form.
 * @param schema The JSON Schema of the value.
 * @param value What to fill in; the defaults of the schema, if it is left out.
 * @returns `element`, and `read()`, which returns the value and throws a SyntaxError if a JSON field is not JSON.
 */
export function makeForm(schema, value = ABSENT) {
  return new Maker(schema).field(schema, { label: "Query", required: true, value, depth: 0 });
}

class Maker {
  constructor(root) {
    this.root = root;
  }

  /** Follow references, and return the schema that describes the value, and whether the value may be null. */
  #resolve(schema) {
    let nullable = false;
    for (let steps = 0; steps < 32; steps++) {
      if (typeof schema !== "object" || schema === null) {
        return [{}, nullable];
      }
      const notes = Object.fromEntries(ANNOTATIONS.filter((key) => key in schema).map((key) => [key, schema[key]]));
      const choices = schema.anyOf ?? schema.oneOf;
      const real = Array.isArray(choices) ? choices.filter((each) => each?.type !== "null") : [];
      if (typeof schema.$ref === "string") {
        schema = { ...this.#find(schema.$ref), ...notes };
      } else if (Array.isArray(schema.allOf) && schema.allOf.length === 1 && !("type" in schema)) {
        schema = { ...schema.allOf[0], ...notes };
      } else if (real.length === 1 && choices.length === 2) {
        nullable = true;
        schema = { ...real[0], ...notes };
      } else if (Array.isArray(schema.type) && schema.type.length === 2 && schema.type.includes("null")) {
        nullable = true;
        schema = { ...schema, type: schema.type.find((each) => each !== "null") };
      } else {
        return [schema, nullable];
      }
    }
    return [{}, nullable];
  }

  #find(reference) {
    let found = reference.startsWith("#") ? this.root : undefined;
    for (const part of reference.slice(1).split("/").slice(1)) {
      found = found?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")];
    }
    return found ?? {};
  }

  field(given, { label, required, value, depth }) {
    const [schema, nullable] = this.#resolve(given);
    if (value === ABSENT && "default" in schema) {
      value = schema.default;
    }
    const about = { schema, label, required, nullable, value, depth };
    if (depth < DEEPEST) {
      if (Array.isArray(schema.enum) || "const" in schema) {
        return this.#choice(about, schema.enum ?? [schema.const]);
      }
      switch (schema.type) {
        case "boolean":
          return required && !nullable ? this.#checkbox(about) : this.#choice(about, [true, false]);
        case "integer":
        case "number":
          return this.#input(about, {
            type: "number",
            step: schema.type === "integer" ? "1" : "any",
            min: schema.minimum, max: schema.maximum,
          }, exactNumber);
        case "string":
          return this.#input(about, {
            type: schema.format === "date" ? "date" : "text", minlength: schema.minLength, maxlength: schema.maxLength,
          }, (text) => text);
        case "array":
          return this.#group(about, () => this.#items(about));
        case "object":
          if (schema.properties) {
            return this.#group(about, () => this.#properties(about));
          }
          return this.#group(about, () => this.#entries(about));
      }
    }
    return this.#json(about);
  }

  /** Make a label, its control, and the description from the schema. */
  #labeled({ schema, label, required }, control, before = false) {
    const id = `field-${++made}`;
    control.id = id;
    const text = el("label", { for: id }, schema.title ?? label, required ? null : el("small", {}, " optional"));
    const note = typeof schema.description === "string" ? el("small", { id: `${id}-note` }, schema.description) : null;
    if (note) {
      control.setAttribute("aria-describedby", note.id);
    }
    return before
      ? el("div", { class: "field check" }, control, text, note)
      : el("div", { class: "field" }, text, control, note);
  }

  /** Return the value of an empty field. */
  #empty({ required, nullable }) {
    return required && nullable ? null : ABSENT;
  }

  #input(about, attributes, parse) {
    const { required, nullable, value } = about;
    const text = attributes.type === "text";
    const control = el("input", {
      ...attributes, required: required && !nullable && !text, autocomplete: "off", spellcheck: "false",
    });
    if (value !== ABSENT && value !== null) {
      control.value = typeof value === "string" ? value : pretty(value);
    }
    // The empty string is a value of a required text.
    const left = () => control.value === "" && !(text && required && !nullable);
    return {
      element: this.#labeled(about, control),
      read: () => (left() ? this.#empty(about) : parse(control.value)),
    };
  }

  #checkbox(about) {
    const control = el("input", { type: "checkbox" });
    control.checked = about.value === true;
    return { element: this.#labeled(about, control, true), read: () => control.checked };
  }

  #choice(about, values) {
    const texts = values.map((each) => JSON.stringify(each));
    const optional = !about.required || about.nullable;
    const control = el("select", {},
      optional ? el("option", { value: "" }, about.required ? "null" : "not set") : null,
      ...texts.map((text, index) => {
        const each = values[index];
        return el("option", { value: text }, typeof each === "string" ? each : text);
      }),
    );
    const wanted = about.value === ABSENT || about.value === null ? "" : JSON.stringify(about.value);
    control.value = texts.includes(wanted) || optional ? wanted : texts[0];
    return {
      element: this.#labeled(about, control),
      read: () => (control.value === "" ? this.#empty(about) : values[texts.indexOf(control.value)]),
    };
  }

  #json(about) {
    const control = el("textarea", { rows: 3, spellcheck: "false", required: about.required, placeholder: "JSON" });
    control.value = about.value === ABSENT ? "" : pretty(about.value);
    return {
      element: this.#labeled(about, control),
      read: () => (control.value.trim() === "" ? this.#empty(about) : parseExact(control.value)),
    };
  }

  /** Make a group of fields. An optional group shows its fields when its box is checked. */
  #group(about, makeContent) {
    const { schema, label, required, nullable, value } = about;
    const optional = !required || nullable;
    const body = el("div", {});
    let content = null;
    const include = (included) => {
      content = included ? makeContent() : null;
      body.replaceChildren(...(content?.elements ?? []));
    };
    const toggle = el("input", { type: "checkbox", change: () => include(toggle.checked) });
    toggle.checked = !optional || (value !== ABSENT && value !== null);
    include(toggle.checked);
    const name = schema.title ?? label;
    return {
      element: el("fieldset", {},
        el("legend", {}, optional ? el("label", {}, toggle, ` ${name}`, el("small", {}, " optional")) : name),
        typeof schema.description === "string" ? el("small", {}, schema.description) : null,
        body,
      ),
      read: () => (content === null ? this.#empty(about) : content.read()),
    };
  }

  #properties({ schema, value, depth }) {
    const given = isObject(value) ? value : {};
    const required = new Set(schema.required ?? []);
    const fields = Object.entries(schema.properties).map(([name, each]) => [name, this.field(each, {
      label: name,
      required: required.has(name),
      value: Object.hasOwn(given, name) ? given[name] : ABSENT,
      depth: depth + 1,
    })]);
    const others = Object.entries(given).filter(([name]) => !Object.hasOwn(schema.properties, name));
    const elements = fields.map(([, field]) => field.element);
    return {
      elements: elements.length > 0 ? elements : [el("p", { class: "quiet" }, "There are no fields.")],
      read: () => Object.fromEntries([
        ...fields.map(([name, field]) => [name, field.read()]).filter(([, each]) => each !== ABSENT), ...others,
      ]),
    };
  }

  /** Make a list of fields that the user can add to and remove from. */
  #several(given, add, makeOne) {
    const ones = new Set();
    const list = el("div", { class: "several" });
    const append = (value) => {
      const one = makeOne(value);
      const row = el("div", { class: "one" }, ...one.elements,
        el("button", { type: "button", click: () => {
          ones.delete(one);
          row.remove();
          button.focus();
        } }, "Remove"));
      ones.add(one);
      list.append(row);
      return row;
    };
    const addOne = () => append(ABSENT).querySelector("input, select, textarea")?.focus();
    const button = el("button", { type: "button", click: addOne }, add);
    given.forEach(append);
    return { elements: [list, button], read: () => [...ones].map((one) => one.read()) };
  }

  #items({ schema, label, value, depth }) {
    const given = Array.isArray(value) ? value : [];
    return this.#several(given, `Add to ${label}`, (each) => {
      const field = this.field(schema.items ?? {}, { label: "Item", required: true, value: each, depth: depth + 1 });
      return { elements: [field.element], read: field.read };
    });
  }

  #entries({ schema, label, value, depth }) {
    const given = isObject(value) ? Object.entries(value) : [];
    const several = this.#several(given, `Add to ${label}`, (each) => {
      const [name, content] = each === ABSENT ? [ABSENT, ABSENT] : each;
      const about = { label: "Key", required: true, value: name, depth: depth + 1 };
      const key = this.field({ type: "string" }, about);
      const field = this.field(schema.additionalProperties ?? {}, { ...about, label: "Value", value: content });
      return { elements: [key.element, field.element], read: () => [key.read(), field.read()] };
    });
    return { elements: several.elements, read: () => Object.fromEntries(several.read()) };
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
