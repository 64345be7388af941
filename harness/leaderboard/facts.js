// Any JSON value as nested lists of facts: the protocol, the manifest.

const LONG_LIST = 40;

function isScalar(value) {
  return value === null || typeof value !== "object";
}

function scalar(value) {
  if (value === null) return make("span", { class: "soft" }, "null");
  return typeof value === "string" ? make("bdi", { class: "value" }, value) : make("span", { class: "value" }, String(value));
}

function facts(value) {
  if (isScalar(value)) return scalar(value);
  if (Array.isArray(value)) return listed(value);
  const entries = Object.entries(value);
  if (!entries.length) return make("span", { class: "soft" }, "none");
  return make("dl", {}, entries.map(([key, inner]) => make("div", { class: isScalar(inner) ? null : "nested" },
    make("dt", {}, make("bdi", {}, key.replaceAll("_", " "))), make("dd", {}, facts(inner)))));
}

function listed(values) {
  if (!values.length) return make("span", { class: "soft" }, "none");
  if (values.every(isScalar) && values.length <= LONG_LIST) return make("bdi", { class: "value" }, values.map(String).join(", "));
  const text = make("pre", { tabindex: "0" }, values.map((value) => JSON.stringify(value)).join("\n"));
  return make("details", {}, make("summary", {}, `${count(values.length)} entries`), text);
}

// A plain table of texts, numbers and elements; the first cell of a line is its head.
function plainTable(label, heads, lines) {
  const cells = (line) => line.map((cell, place) => (place ? make("td", {}, cell) : make("th", { scope: "row", class: "name" }, cell)));
  return scrolling(label, make("table", {},
    make("thead", {}, make("tr", {}, heads.map((title, place) => make("th", { scope: "col", class: place ? null : "name" }, title)))),
    make("tbody", {}, lines.map((line) => make("tr", {}, cells(line))))));
}
