// Selects and a search field above a table.
//
// `prefix` begins the ids of the controls. A field has `key`, `label`, and `options`: pairs of value and text. The first option is the one at the start, unless
// `initial` names another. The empty value stands for all.

function makeFilters({ prefix, label, fields, change }) {
  const selects = new Map(fields.map((field) => [field.key, select(field)]));
  const search = make("input", { type: "search", autocomplete: "off", spellcheck: "false", input: change });
  const status = make("p", { class: "status", role: "status" });
  const form = make(
    "form",
    { class: "filters", role: "search", "aria-label": label, submit: (event) => event.preventDefault() },
    fields.map((field) => labelled(field.label, selects.get(field.key))),
    labelled("Search", search),
    make("button", { type: "button", click: reset }, "Clear filters"),
  );

  function labelled(text, control) {
    control.id = `${prefix}-${text.toLowerCase().replaceAll(" ", "-")}`;
    return make("div", { class: "field" }, make("label", { for: control.id }, text), control);
  }

  function select({ options, initial = options[0][0] }) {
    const element = make("select", { change });
    for (const [value, text] of options) element.append(make("option", { value, dir: "auto" }, text));
    element.value = initial;
    return element;
  }

  function reset() {
    for (const field of fields) if (field.options[0][0] === "") selects.get(field.key).value = "";
    search.value = "";
    change();
  }

  return {
    element: make("div", {}, form, status),
    value: (key) => selects.get(key).value,
    // All words of the search, in any order.
    matches: (text) => {
      const found = text.toLowerCase();
      return search.value.toLowerCase().split(/\s+/).every((word) => found.includes(word));
    },
    set(key, value) {
      selects.get(key).value = value;
      change();
    },
    search(text) {
      search.value = text;
      change();
    },
    say: (text) => (status.textContent = text),
  };
}

// All values that rows have, with an option for every one of them in front.
function choices(values, all = "all") {
  const distinct = [...new Set(values)].sort(COLLATOR.compare);
  return [["", distinct.length > 1 ? `${all} (${distinct.length})` : all], ...distinct.map((value) => [value, value])];
}
