// Elements without HTML: names come from files that others wrote, and only ever become text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}

// `make("button", {class: "x", click: f}, "text", child)`; functions are listeners.
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A name whose writing direction stays inside it.
function name(text) {
  return make("bdi", {}, String(text));
}

function small(...children) {
  return make("small", {}, ...children);
}

// A table that scrolls by itself, by keyboard too, so that the page never does.
function scrolling(label, table) {
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": label }, table);
}
